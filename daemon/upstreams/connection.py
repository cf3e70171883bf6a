"""One HTTP/1.1 connection to a provider, and the answer that arrives on it.

Why not a client library: a gateway forwards bytes it does not look at, hundreds of streams at a time, and a general
client spends most of its time on what is not needed here (see bench/README.md for the figures). What is needed stays
small: write one request, parse one answer with httptools, push back when nobody reads, give up at a deadline.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast

import httptools

from daemon.upstreams.base import Abortable, BodyEnd, Failure, FailureKind, Headers, OutboundRequest

BUFFER_LIMIT = 256 * 1024
HEAD_LIMIT = 64 * 1024
WRITE_TIMEOUT = 30.0


class StreamedReply:
    """A `Reply` fed by a `Connection`. The connection may be back in the pool before the last byte is read."""

    translator = None
    __slots__ = ("_buffered", "_chunks", "_connection", "_end", "_quiet", "_waiter", "headers", "status")

    def __init__(self, connection: "Connection", status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        self._connection: Connection | None = connection
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._end: BodyEnd | None = None
        self._quiet = False
        self._waiter: asyncio.Future[None] | None = None

    async def read(self, quiet: float | None = None) -> bytes | BodyEnd:
        timer: asyncio.TimerHandle | None = None
        self._quiet = False
        while not self._chunks:
            if self._end is not None:
                return self._end
            if self._quiet:
                return b""
            loop = asyncio.get_running_loop()
            if quiet is not None and timer is None:
                timer = loop.call_later(quiet, self._hush)
            self._waiter = loop.create_future()
            await self._waiter
        if timer is not None:
            timer.cancel()
        chunks, self._chunks = self._chunks, []
        if self._buffered > BUFFER_LIMIT and self._connection is not None:
            self._connection.resume()
        self._buffered = 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.fail(Failure(FailureKind.ABORTED, "closed by the gateway"))

    def feed(self, data: bytes) -> bool:
        """Take bytes from the connection; True asks it to pause."""
        self._chunks.append(data)
        self._buffered += len(data)
        return self._buffered > BUFFER_LIMIT

    def finish(self, failure: Failure | None) -> None:
        self._end = BodyEnd(failure)
        self._connection = None
        self.wake()

    def _hush(self) -> None:
        self._quiet = True
        self.wake()

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Connection(asyncio.Protocol):
    """Carries one request at a time; `on_idle` is called when it may carry the next one, `on_lost` when it is gone."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_idle: Callable[["Connection"], None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self._loop = loop
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._head: asyncio.Future[StreamedReply | Failure] | None = None
        self._reply: StreamedReply | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._until_close = False
        self._paused = False
        self._serial = 0
        self._timer: asyncio.TimerHandle | None = None
        self._first_byte_timeout = 0.0
        self._idle_timeout = 0.0
        self._started = 0.0
        self._last_data = 0.0
        self.idle_since = 0.0
        self.used = False
        self.lost_unsent = False

    # -- what the pool calls ---------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, head: bytes, request: OutboundRequest, line: Abortable) -> asyncio.Future[StreamedReply | Failure]:
        """Write a request; the future resolves when the answer's head has arrived or will not."""
        assert self._transport is not None
        self._serial += 1
        self._parser = httptools.HttpResponseParser(self)
        self._head = self._loop.create_future()
        self._headers, self._head_bytes, self._until_close, self.lost_unsent = [], 0, False, False
        self._first_byte_timeout = request.first_byte_timeout
        self._idle_timeout = request.idle_timeout
        self._started = self._last_data = self._loop.time()
        self._timer = self._loop.call_at(
            self._started + min(WRITE_TIMEOUT, request.first_byte_timeout, request.idle_timeout), self._check_deadlines
        )
        self._transport.writelines((head, request.body))
        answer = self._head
        line.attach(partial(self._abort, self._serial))
        return answer

    def resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._last_data = self._loop.time()
            self._transport.resume_reading()

    def fail(self, failure: Failure) -> None:
        """Close the connection; whoever waits for an answer gets `failure`."""
        transport = self._transport
        if transport is not None:
            self.lost_unsent = transport.get_write_buffer_size() > 0
        self._resolve(failure)
        if transport is not None:
            transport.abort()

    def _abort(self, serial: int) -> None:
        """End request number `serial`, unless this connection already carries a later one or none."""
        if serial == self._serial and self._parser is not None:
            self.fail(Failure(FailureKind.ABORTED, "closed by the gateway"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        if self._parser is None:  # an idle connection has nothing to say
            self.close()
            return
        self._last_data = self._loop.time()
        if self._reply is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail(Failure(FailureKind.PROTOCOL, "the provider tried to switch protocols"))
        except httptools.HttpParserError as error:
            self.fail(Failure(FailureKind.PROTOCOL, f"the provider's answer is not HTTP/1.1 ({type(error).__name__})"))
        else:
            if self._reply is not None:
                self._reply.wake()
            elif self._head_bytes > HEAD_LIMIT and self._parser is not None:
                self.fail(Failure(FailureKind.PROTOCOL, "the provider's response headers exceed 64 KiB"))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reply is not None and self._until_close and exc is None:
            self._resolve(None)
        else:
            self.lost_unsent = self._transport is not None and self._transport.get_write_buffer_size() > 0
            self._resolve(Failure(FailureKind.CUT, "the provider closed the connection before its answer was complete"))
        self._transport = None
        self._on_lost(self)

    # -- httptools callbacks ---------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:  # 100, 103: an announcement, the answer follows
            self._headers = []
            return
        names = {name for name, _ in self._headers}
        self._until_close = (
            b"content-length" not in names and b"transfer-encoding" not in names and status not in (204, 304)
        )
        self._reply = StreamedReply(self, status, self._headers)
        if self._head is not None and not self._head.done():
            self._head.set_result(self._reply)

    def on_body(self, body: bytes) -> None:
        if self._reply is not None and self._reply.feed(body) and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self._reply is None or self._until_close:
            return
        keep = self._parser.should_keep_alive()
        self._resolve(None)
        if keep and self.usable:
            self.resume()
            self.used = True
            self.idle_since = self._loop.time()
            self._on_idle(self)
        else:
            self.close()

    # -- the end of an answer --------------------------------------------------------------------------------------

    def _resolve(self, failure: Failure | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._parser = None
        reply, self._reply = self._reply, None
        head, self._head = self._head, None
        if reply is not None:
            reply.finish(failure)
        elif head is not None and not head.done():
            head.set_result(failure or Failure(FailureKind.CUT, "the provider closed the connection without an answer"))

    def _check_deadlines(self) -> None:
        """The one timer of a request: it looks at the clock and moves itself, instead of being moved by each byte."""
        now = self._loop.time()
        self._timer = None
        if self._reply is not None:
            deadline = (now if self._paused else self._last_data) + self._idle_timeout
            failure = Failure(FailureKind.IDLE_TIMEOUT, f"the provider sent nothing for {self._idle_timeout:g} s")
        elif self._transport is not None and self._transport.get_write_buffer_size() > 0:
            deadline = self._started + WRITE_TIMEOUT
            failure = Failure(
                FailureKind.WRITE_TIMEOUT, f"the provider did not read the request in {WRITE_TIMEOUT:g} s"
            )
        else:
            deadline = self._started + self._first_byte_timeout
            failure = Failure(
                FailureKind.FIRST_BYTE_TIMEOUT, f"the provider did not answer in {self._first_byte_timeout:g} s"
            )
        if now >= deadline:
            self.fail(failure)
        else:
            self._timer = self._loop.call_at(deadline, self._check_deadlines)
