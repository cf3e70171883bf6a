"""The one HTTP client of the data plane: a base URL and its pool of kept connections."""

import asyncio
import ipaddress
import ssl
from urllib.parse import urlsplit

from daemon.upstreams.base import Abortable, Failure, FailureKind, OutboundRequest
from daemon.upstreams.connection import Connection, StreamedReply

MAX_IDLE = 256
IDLE_SECONDS = 50.0  # below the 60 s after which load balancers drop a connection


class HttpUpstream:
    """An `Upstream` over HTTP/1.1, with TLS when the base URL says https. Redirects are answers, never followed."""

    def __init__(self, base_url: str, *, connect_timeout: float, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(base_url)
        assert parts.hostname is not None
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/").encode()
        self._host_line = b"host: " + parts.netloc.encode() + b"\r\n"
        self._connect_timeout = connect_timeout
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()

    async def open(self, request: OutboundRequest, line: Abortable) -> StreamedReply | Failure:
        head = self._head(request)
        connection = self._kept()
        while True:
            if connection is None:
                fresh = await self._connect()
                if isinstance(fresh, Failure):
                    return fresh
                connection = fresh
            if line.aborted:
                connection.close()
                return Failure(FailureKind.ABORTED, "the client has gone")
            answer = await self._exchange(connection, head, request, line)
            if isinstance(answer, Failure) and answer.kind is FailureKind.CUT and _dead_before_sent(connection):
                connection = None  # the kept connection had died before our last byte: nobody has seen the request
                continue
            return answer

    async def aclose(self) -> None:
        """Close all connections, idle or not."""
        for connection in list(self._open):
            connection.fail(Failure(FailureKind.ABORTED, "the gateway is closing"))
        self._idle.clear()
        await asyncio.sleep(0)

    async def _exchange(
        self, connection: Connection, head: bytes, request: OutboundRequest, line: Abortable
    ) -> StreamedReply | Failure:
        try:
            return await connection.send(head, request, line)
        except asyncio.CancelledError:
            connection.fail(Failure(FailureKind.ABORTED, "closed by the gateway"))
            raise

    def _head(self, request: OutboundRequest) -> bytes:
        lines = [request.method, b" ", self._prefix, request.path, b" HTTP/1.1\r\n", self._host_line]
        for name, value in request.headers:
            lines += (name, b": ", value, b"\r\n")
        if request.body or request.method == b"POST":
            lines.append(b"content-length: %d\r\n" % len(request.body))
        lines.append(b"\r\n")
        return b"".join(lines)

    def _kept(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection) -> None:
        if len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self) -> Connection | Failure:
        loop = asyncio.get_running_loop()
        where = f"{self._host}:{self._port}"
        try:
            async with asyncio.timeout(self._connect_timeout):
                transport, connection = await loop.create_connection(
                    lambda: Connection(loop, self._keep, self._open.discard), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            return Failure(FailureKind.CONNECT_TIMEOUT, f"no connection to {where} in {self._connect_timeout:g} s")
        except ssl.SSLError as error:
            return Failure(FailureKind.CONNECT, f"TLS with {where} failed: {error.reason or 'handshake'}")
        except OSError as error:
            return Failure(FailureKind.CONNECT, f"cannot reach {where}: {error.strerror or type(error).__name__}")
        if _is_link_local(transport.get_extra_info("peername")):
            transport.abort()
            return Failure(FailureKind.CONNECT, f"{where} resolves to a link-local address, which is refused")
        self._open.add(connection)
        return connection


def _dead_before_sent(connection: Connection) -> bool:
    return connection.used and connection.lost_unsent


def _is_link_local(peer: tuple[str, int] | None) -> bool:
    return peer is not None and ipaddress.ip_address(peer[0].partition("%")[0]).is_link_local
