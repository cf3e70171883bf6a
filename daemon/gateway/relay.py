"""From the provider's answer to the client: bytes pass untouched, the meter sees a copy.

The request's own task is the pump. The server never cancels it when the client leaves; a watcher tells it instead, so
that what happens to the provider's stream, and to the usage, is decided here and not by whoever closed a socket.
Sending waits for a slow client, which stops the reading, which pushes back on the provider: memory stays bounded.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from daemon.core.record import Ended
from daemon.gateway.accounts import Accounts, Exchange
from daemon.gateway.answers import Denied, send_denied, send_whole
from daemon.gateway.ledger import LedgerUnavailable
from daemon.protocol.anthropic.errors import error_event
from daemon.protocol.anthropic.meter import UsageMeter
from daemon.protocol.asgi import Send
from daemon.protocol.bedrock.stream import Translator
from daemon.protocol.headers import response_headers
from daemon.upstreams.base import BodyEnd, Failure, FailureKind, Headers, Reply

if TYPE_CHECKING:
    from daemon.gateway.spend import Budgets

WHOLE_LIMIT = 64 * 1024 * 1024
HOLD_LIMIT = 256 * 1024
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
PING_SECONDS = 15.0  # silence after which the client hears from us: load balancers and clients give up on silence
DRAIN_SECONDS, DRAIN_BYTES = 600.0, 64 * 1024 * 1024
CHECKPOINT_MS, CHECKPOINT_TOKENS = 5_000, 2_000
OVER_BUDGET = Denied(429, "billing_error", "Your budget was used up in the middle of this answer.")
UNRECORDED = Denied(529, "overloaded_error", "usage cannot be recorded right now, try again shortly")
OWN_CREDENTIAL = Denied(
    502, "api_error", "the provider refused the gateway's own credential; an operator has to replace it"
)


class Outgoing:
    """What the client gets: one head, then bytes. Nothing is sent to a client that has left."""

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send = send
        self._exchange = exchange
        self.begun = False

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head, unless a ping has sent one already."""
        if not self.begun and not self._exchange.left:
            self.begun = True
            await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        if not self._exchange.left:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def ping(self) -> None:
        """Keep the client waiting. It has status 200 from now on, whatever comes."""
        kind = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await self.begin(200, [*kind, (b"request-id", self._exchange.request_id.encode())])
        await self.write(PING)

    async def finish(self, last: bytes = b"") -> None:
        if not self._exchange.left:
            await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send an answer whose body is at hand; to a client that waits for a stream already, an error."""
        if self.begun:
            await self.deny(Denied(502, "api_error", "the provider answered a streaming request without a stream"))
        elif not self._exchange.left:
            self.begun = True
            await send_whole(self._send, status, headers, body)

    async def deny(self, denied: Denied) -> None:
        """Send an error of our own: with its status, or as an event when a ping has gone out before."""
        if self.begun:
            await self.finish(error_event(denied.type, denied.message, self._exchange.request_id))
        elif not self._exchange.left:
            self.begun = True
            await send_denied(self._send, denied, self._exchange.request_id)


@dataclass(slots=True)
class Held:
    """The beginning of a stream that the client has not seen: nothing has been promised yet."""

    reply: Reply
    chunks: list[bytes] = field(default_factory=list)
    end: BodyEnd | None = None
    error_type: str | None = None  # of the error event that came instead of content
    error_message: str = ""
    has_content: bool = False  # content has begun, or the answer came to its proper end without any

    @property
    def status(self) -> int:
        return self.reply.status

    @property
    def headers(self) -> Headers:
        return self.reply.headers

    @property
    def translator(self) -> Translator | None:
        return self.reply.translator

    async def read(self, quiet: float | None = None) -> bytes | BodyEnd:
        """The bytes from the beginning: a held stream is relayed like any other."""
        if self.chunks:
            return self.chunks.pop(0)
        return self.end if self.end is not None else await self.reply.read(quiet)

    def close(self) -> None:
        self.reply.close()


def head(reply: Reply, exchange: Exchange, *, shared_credential: bool) -> list[tuple[bytes, bytes]]:
    """The provider's response headers as the client gets them."""
    if exchange.tried.provider == "bedrock":  # AWS's own headers mean nothing to the client
        headers = [(b"content-type", header(reply, b"content-type"))]
    else:
        ours = shared_credential or bool(exchange.budget_headers)  # the client understands one budget at a time
        headers = response_headers(reply.headers, shared_credential=ours)
    headers.extend(exchange.budget_headers)
    headers.append((b"request-id", exchange.request_id.encode()))
    if exchange.upstream_request_id:
        headers.append((b"x-proxy-upstream-request-id", exchange.upstream_request_id.encode("latin-1")))
    headers.append((b"x-proxy-provider", exchange.tried.provider.encode()))
    if exchange.fallback_reason:
        headers.append((b"x-proxy-fallback-reason", exchange.fallback_reason.encode()))
    return headers


def header(reply: Reply, name: bytes) -> bytes:
    return next((value for key, value in reply.headers if key == name), b"")


def is_event_stream(reply: Reply) -> bool:
    return reply.status == 200 and header(reply, b"content-type").startswith(b"text/event-stream")


def is_json(reply: Reply) -> bool:
    return b"json" in header(reply, b"content-type").partition(b";")[0]


def is_coded(reply: Reply) -> bool:
    """Whether the body is compressed although we asked for it as it is: then it passes, but cannot be metered."""
    return header(reply, b"content-encoding") not in (b"", b"identity")


async def hold(exchange: Exchange, reply: Reply, accounts: Accounts, out: Outgoing) -> Held:
    """Read a stream until its content begins, it ends, or 256 KiB are there. Nothing but pings goes to the client."""
    held = Held(reply)
    meter = UsageMeter(stream=True)
    size = 0
    while not held.has_content and held.error_type is None and size <= HOLD_LIMIT and not is_coded(reply):
        chunk = await reply.read(PING_SECONDS)
        if isinstance(chunk, BodyEnd):
            held.end = chunk
            meter.finish()
        elif not chunk:
            await out.ping()
            continue
        else:
            if exchange.first_byte_ms is None:
                exchange.first_byte_ms = accounts.elapsed_ms(exchange)
            meter.feed(chunk)
            held.chunks.append(chunk)
            size += len(chunk)
        held.has_content = meter.content_started or meter.stopped
        if not held.has_content:
            held.error_type, held.error_message = meter.error_type, meter.error_message
        if held.end is not None:
            break
    return held


async def stream(
    exchange: Exchange,
    reply: Reply,
    accounts: Accounts,
    out: Outgoing,
    *,
    shared_credential: bool,
    budgets: "Budgets",
) -> Failure | None:
    """Relay an event stream as it arrives; the usage record is durable before the client gets `message_stop`.

    Returns why the answer is not whole; None when it is, and when it was the client that left.
    """
    meter = UsageMeter(stream=True)
    settled = False
    drain = _Drain(exchange, accounts)
    checkpoints = _Checkpoints(exchange, accounts)

    async def settle(ended: Ended, failure: Failure | None = None) -> None:
        nonlocal settled
        settled = True
        take_metrics(meter, reply)
        kind = failure.kind.value if failure else None
        await accounts.settle_answer(exchange, meter, ended, status=reply.status, failure=kind)

    await out.begin(reply.status, head(reply, exchange, shared_credential=shared_credential))
    opaque = is_coded(reply)
    failure: Failure | None = None
    last = b""
    try:
        while True:
            chunk = await reply.read(PING_SECONDS)
            if isinstance(chunk, BodyEnd):
                break
            drain.check(len(chunk))
            if not chunk:
                if meter.at_boundary and not opaque:
                    await out.write(PING)
                continue
            if exchange.first_byte_ms is None:
                exchange.first_byte_ms = accounts.elapsed_ms(exchange)
            if not opaque:
                meter.feed(chunk)
                if meter.stopped and not settled:
                    await settle(Ended.CLIENT_LEFT if exchange.left else Ended.FINISHED)
                elif not settled:
                    checkpoints.pass_by(meter)
                    if not await budgets.grow(exchange, meter, partial(accounts.so_far, exchange, meter)):
                        await settle(Ended.BUDGET)
                        over = error_event(OVER_BUDGET.type, OVER_BUDGET.message, exchange.request_id)
                        last = over if meter.at_boundary else b"\n" + over
            await out.write(chunk)
            if last:
                reply.close()
                break
        if not settled:
            assert isinstance(chunk, BodyEnd)
            meter.finish()
            ended, last = _unfinished(exchange, reply, chunk.failure, meter, opaque=opaque)
            failure = (chunk.failure or _CUT) if ended is Ended.UPSTREAM_CUT else None
            await settle(ended, failure)
    except LedgerUnavailable:
        exchange.line.abort()
        last = error_event(UNRECORDED.type, UNRECORDED.message, exchange.request_id)
    await out.finish(last)
    return failure


class _Checkpoints:
    """Notes how far an answer is, once its prompt has been counted and now and then after that."""

    def __init__(self, exchange: Exchange, accounts: Accounts) -> None:
        self._exchange = exchange
        self._accounts = accounts
        self._next_ms = 0
        self._next_output = 0

    def pass_by(self, meter: UsageMeter) -> None:
        """Note it when enough has happened."""
        if not meter.prompt_known:
            return
        now = self._accounts.elapsed_ms(self._exchange)
        if now < self._next_ms and meter.output_seen < self._next_output:
            return
        self._next_ms = now + CHECKPOINT_MS
        self._next_output = meter.output_seen + CHECKPOINT_TOKENS
        with suppress(LedgerUnavailable):  # the record itself will say so
            self._accounts.checkpoint(self._accounts.so_far(self._exchange, meter))


class _Drain:
    """Reads on for a client that has left, within bounds: the provider bills the whole answer anyway."""

    def __init__(self, exchange: Exchange, accounts: Accounts) -> None:
        self._exchange = exchange
        self._accounts = accounts
        self._since_ms: int | None = None
        self._received = 0

    def check(self, received: int) -> None:
        """Count bytes; past a bound the answer is given up."""
        if not self._exchange.left:
            return
        now = self._accounts.elapsed_ms(self._exchange)
        self._since_ms = now if self._since_ms is None else self._since_ms
        self._received += received
        if self._received > DRAIN_BYTES or now - self._since_ms > DRAIN_SECONDS * 1000:
            self._exchange.line.abort()


_CUT = Failure(FailureKind.CUT, "the provider's stream ended")


def _unfinished(
    exchange: Exchange, reply: Reply, failure: Failure | None, meter: UsageMeter, *, opaque: bool
) -> tuple[Ended, bytes]:
    """How a stream ended without a complete `message_stop` event, and what the client still gets."""
    if meter.stopped and not exchange.left:  # it did say so, only the blank line after it was missing
        return Ended.FINISHED, b""
    if exchange.left or exchange.line.aborted:
        return Ended.CLIENT_LEFT, b""
    if opaque:
        return (Ended.FINISHED if failure is None else Ended.UPSTREAM_CUT), b""
    if meter.error_type is not None:  # the provider said so itself, and the client has it
        return Ended.ERROR if not meter.content_started else Ended.UPSTREAM_CUT, b""
    named = reply.translator.error if reply.translator else None
    if named is not None:
        crowded = named.type in ("overloaded_error", "rate_limit_error")
        event = error_event("overloaded_error" if crowded else "api_error", named.message, exchange.request_id)
    else:
        reason = failure.detail if failure else "the provider's stream ended"
        event = error_event("api_error", f"{reason}, before message_stop", exchange.request_id)
    # A line feed ends the provider's broken line and leaves its event open: the field `event: error` then renames it,
    # so that a client sees one error event and never half a delta.
    return Ended.UPSTREAM_CUT, event if meter.at_boundary else b"\n" + event


def take_metrics(meter: UsageMeter, reply: Reply) -> None:
    """What Bedrock counted stands in for what its events did not say."""
    metrics = reply.translator.metrics if reply.translator else None
    if metrics is not None and not meter.exact:
        meter.take_counts(
            input_tokens=metrics.input,
            output_tokens=metrics.output,
            cache_read=metrics.cache_read,
            cache_write=metrics.cache_write,
        )


async def whole(
    exchange: Exchange, reply: Reply, body: bytes, accounts: Accounts, out: Outgoing, *, shared_credential: bool
) -> None:
    """Send an answer that is one document, once it is recorded."""
    meter = UsageMeter(stream=False)
    if not is_coded(reply):
        meter.feed(body)
        meter.finish()
    ended = Ended.FINISHED if reply.status < 400 else Ended.ERROR
    if exchange.left:
        ended = Ended.CLIENT_LEFT
    try:
        await accounts.settle_answer(exchange, meter, ended, status=reply.status)
    except LedgerUnavailable:
        await out.deny(UNRECORDED)
        return
    await out.whole(reply.status, head(reply, exchange, shared_credential=shared_credential), body)


async def collect(reply: Reply) -> bytes | Failure:
    """The whole body, at most 64 MiB of it; a longer one is cut off."""
    chunks: list[bytes] = []
    size = 0
    while True:
        chunk = await reply.read()
        if isinstance(chunk, BodyEnd):
            return chunk.failure or b"".join(chunks)
        size += len(chunk)
        if size > WHOLE_LIMIT:
            reply.close()
            return Failure(FailureKind.PROTOCOL, f"the provider's answer exceeds {WHOLE_LIMIT >> 20} MiB")
        chunks.append(chunk)


def refuse(reply: Reply, body: bytes, *, shared_credential: bool) -> Denied | None:
    """Why an answer does not pass as it is: a page from a CDN, a redirect, our own credential refused."""
    if shared_credential and reply.status in (401, 403):
        return OWN_CREDENTIAL
    if 300 <= reply.status < 400:
        return Denied(502, "api_error", f"the provider answered with a redirect (HTTP {reply.status}), not followed")
    if is_json(reply) and body:
        return None
    if reply.status >= 400:
        return Denied(reply.status, "api_error", f"the provider answered HTTP {reply.status} without a JSON body")
    return Denied(502, "api_error", "the provider's answer is neither JSON nor an event stream")
