# The daemon as a non-root container. Migrate first: docker run … proxyctl db upgrade
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/proxyctl && /opt/proxyctl/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN /opt/proxyctl/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim
COPY --from=build /opt/proxyctl /opt/proxyctl
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin proxyctl \
    && install -d -o proxyctl -g proxyctl -m 0700 /var/lib/proxyctl
USER 10001
ENV PATH=/opt/proxyctl/bin:$PATH PROXY_DATA_DIR=/var/lib/proxyctl PYTHONUNBUFFERED=1
VOLUME /var/lib/proxyctl
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
CMD ["proxyctl", "serve", "--host", "0.0.0.0", "--port", "8000"]
