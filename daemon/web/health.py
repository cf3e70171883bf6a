"""Liveness and readiness, for load balancers and start scripts."""

from collections.abc import Callable

from daemon.protocol.asgi import Receive, Scope, Send


class Health:
    """`/healthz`: the process answers. `/readyz`: it takes requests.

    Neither asks the database: a blip there must not take every replica out at once while known keys can be served.
    """

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ready = scope["path"] == "/healthz" or self._is_ready()
        body = b'{"status":"ok"}' if ready else b'{"status":"draining"}'
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200 if ready else 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})
