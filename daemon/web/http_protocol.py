"""The edge: uvicorn's HTTP/1.1 protocol with the limits and timers that a server without a proxy in front needs.

uvicorn alone keeps a silent connection for ever, takes two megabytes of headers and any Host, and answers nonsense with
plain text. Here a request is refused before the application sees it, in the error shape that clients know.
"""

import asyncio
import re
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from daemon.protocol.anthropic.errors import error_body

_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_UNSAFE_PATH = re.compile(
    rb"[^\x21-\x7e]|//|/\.\.?(?=/|$)|[\\;]|%(?:2f|5c|2e|00|0a|0d|25|[89a-f][0-9a-f])", re.IGNORECASE
)
_REASONS = {400: "Bad Request", 408: "Request Timeout", 414: "URI Too Long", 431: "Request Header Fields Too Large",
            501: "Not Implemented", 529: "Overloaded"}  # fmt: skip
_TYPES = {408: "timeout_error", 501: "not_supported", 529: "overloaded_error"}
_DISCARD_LIMIT = 1024 * 1024
_DESCRIPTOR_SHARE = 0.8
_LINGER_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """Seconds and bytes that a client may take."""

    header_seconds: float = 10.0
    body_stall_seconds: float = 30.0
    write_stall_seconds: float = 120.0
    header_bytes: int = 64 * 1024
    header_count: int = 200
    target_bytes: int = 16 * 1024
    connections: int = 0  # 0: four fifths of the file descriptors this process may open

    @property
    def tick(self) -> float:
        return min(self.header_seconds, self.body_stall_seconds, self.write_stall_seconds) / 4


class _Refused(Exception):
    """Ends the parsing of a request; the protocol has noted why."""


class HardenedProtocol(HttpToolsProtocol):
    """One connection. A slow timer looks at what it waits for, instead of a timer a byte."""

    limits: EdgeLimits
    allowed_hosts: frozenset[bytes]
    new_request_id: Callable[[], str]
    connection_cap: int

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._refusal: tuple[int, str] | None = None
        self._head_since: float | None = self.loop.time()
        self._progress = self._head_since
        self._paused_since: float | None = None
        self._head_bytes = 0
        self._discarded = 0
        self._ticker: asyncio.TimerHandle | None = self.loop.call_later(self.limits.tick, self._tick)
        if len(self.connections) > self.connection_cap:
            self._refuse(529, "too many connections, try again shortly")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._progress = self.loop.time()
        if self._head_since is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_since is not None and self._head_bytes > self.limits.header_bytes and self._refusal is None:
            self._refuse(431, f"request headers exceed {self.limits.header_bytes >> 10} KiB")

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this for whatever the parser stopped at, our own refusals included."""
        status, message = self._refusal or (400, "not a valid HTTP/1.1 request")
        self._refuse(status, message)

    # -- parser callbacks ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_since is None:
            self._head_since, self._head_bytes = self.loop.time(), 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.target_bytes:
            self._stop(414, f"request target exceeds {self.limits.target_bytes >> 10} KiB")

    def on_headers_complete(self) -> None:
        self._check_headers()
        target, _, _ = self.url.partition(b"?")
        if not target.startswith(b"/"):
            self._stop(400, "request target: expected a path")
        if _UNSAFE_PATH.search(target):
            self._stop(400, "request target: expected a canonical path of printable ASCII")
        self._head_since = None
        self._discarded = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self.cycle is not None and self.cycle.response_complete:  # refused before it was read: linger a little
            self._discarded += len(body)
            if self._discarded > _DISCARD_LIMIT:
                self.transport.close()

    def on_response_complete(self) -> None:
        unread = self.cycle.more_body
        super().on_response_complete()
        if unread:  # what still comes belongs to a request that is over; it is not the next one
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete and not self.cycle.keep_alive:
            self.transport.close()

    # -- flow control ----------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._paused_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._paused_since = None

    # -- ours ------------------------------------------------------------------------------------------------------

    def _check_headers(self) -> None:
        hosts: list[bytes] = []
        size = coded = sized = 0
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            match name:
                case b"host":
                    hosts.append(value)
                case b"content-length":
                    sized += 1
                    if not value.isdigit():
                        self._stop(400, "content-length: expected a number")
                case b"transfer-encoding":
                    coded += 1
                    if value.lower() != b"chunked" or self.parser.get_http_version() == "1.0":
                        self._stop(501, "transfer-encoding: expected chunked over HTTP/1.1")
                case b"upgrade":
                    self._stop(400, "upgrade: this server speaks HTTP/1.1 only")
        if size > self.limits.header_bytes or len(self.headers) > self.limits.header_count:
            self._stop(
                431, f"expected at most {self.limits.header_count} headers of {self.limits.header_bytes >> 10} KiB"
            )
        if sized + coded > 1:
            self._stop(400, "expected one of content-length and transfer-encoding, once")
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            self._stop(400, "host: expected one host name")
        if self.allowed_hosts and re.sub(rb":\d+$", b"", hosts[0]).lower() not in self.allowed_hosts:
            self._stop(400, "host: not one this server answers for")

    def _stop(self, status: int, message: str) -> None:
        self._refusal = (status, message)
        raise _Refused

    def _refuse(self, status: int, message: str) -> None:
        """Answer, unless an answer is on its way already, and close."""
        self._refusal = (status, message)
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            request_id = self.new_request_id()
            body = error_body(_TYPES.get(status, "invalid_request_error"), message, request_id)
            head = (
                f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nrequest-id: {request_id}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        # Closing with unread bytes would reset the connection and take the answer with it: linger a moment.
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _tick(self) -> None:
        """Close what has waited too long: for a head, for the rest of a body, or for the client to read."""
        now, limits = self.loop.time(), self.limits
        if self._refusal is not None:
            return
        self._ticker = self.loop.call_later(limits.tick, self._tick)
        if self._paused_since is not None and now - self._paused_since > limits.write_stall_seconds:
            self.transport.abort()
        elif self._head_since is not None:
            if now - self._head_since > limits.header_seconds:
                self._refuse(408, f"request headers did not arrive within {limits.header_seconds:g} s")
        elif self._waits_for_body() and now - self._progress > limits.body_stall_seconds:
            self._refuse(408, f"request body made no progress for {limits.body_stall_seconds:g} s")

    def _waits_for_body(self) -> bool:
        return self.cycle is not None and self.cycle.more_body and not self.flow.read_paused


def hardened_protocol(
    limits: EdgeLimits, allowed_hosts: frozenset[str], new_request_id: Callable[[], str]
) -> type[HardenedProtocol]:
    """The protocol class for a server with these limits. No hosts means any host."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    fields: dict[str, Any] = {
        "limits": limits,
        "allowed_hosts": frozenset(host.encode() for host in allowed_hosts),
        "new_request_id": staticmethod(new_request_id),
        "connection_cap": limits.connections or int(descriptors * _DESCRIPTOR_SHARE),
    }
    return type("ConfiguredProtocol", (HardenedProtocol,), fields)
