"""From the provider's answer to the client: bytes pass untouched, the meter sees a copy.

The request's own task is the pump. The server never cancels it when the client leaves; a watcher tells it instead, so
that what happens to the provider's stream, and to the usage, is decided here and not by whoever closed a socket.
Sending waits for a slow client, which stops the reading, which pushes back on the provider: memory stays bounded.
"""

from daemon.core.record import Ended
from daemon.gateway.answers import Denied, send_denied, send_whole
from daemon.gateway.exchange import PROVIDER, Accounts, Exchange
from daemon.gateway.ledger import LedgerUnavailable
from daemon.protocol.anthropic.errors import error_event
from daemon.protocol.anthropic.meter import UsageMeter
from daemon.protocol.asgi import Send
from daemon.protocol.headers import response_headers
from daemon.upstreams.base import Abortable, BodyEnd, Failure, FailureKind, Reply

WHOLE_LIMIT = 64 * 1024 * 1024
UNRECORDED = Denied(529, "overloaded_error", "usage cannot be recorded right now, try again shortly")
OWN_CREDENTIAL = Denied(
    502, "api_error", "the provider refused the gateway's own credential; an operator has to replace it"
)


def head(reply: Reply, request_id: str, *, shared_credential: bool) -> list[tuple[bytes, bytes]]:
    """The provider's response headers as the client gets them."""
    headers = response_headers(reply.headers, shared_credential=shared_credential)
    headers.append((b"request-id", request_id.encode()))
    upstream_id = header(reply, b"request-id")
    if upstream_id:
        headers.append((b"x-proxy-upstream-request-id", upstream_id))
    headers.append((b"x-proxy-provider", PROVIDER.encode()))
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


async def stream(exchange: Exchange, reply: Reply, accounts: Accounts, send: Send, *, shared_credential: bool) -> None:
    """Relay an event stream as it arrives; the usage record is durable before the client gets `message_stop`."""
    meter = UsageMeter(stream=True)
    upstream_id = header(reply, b"request-id").decode("latin-1") or None
    settled = False

    async def settle(ended: Ended) -> None:
        nonlocal settled
        settled = True
        await accounts.settle_answer(exchange, meter, ended, status=reply.status, upstream_request_id=upstream_id)

    start = head(reply, exchange.request_id, shared_credential=shared_credential)
    await send({"type": "http.response.start", "status": reply.status, "headers": start})
    opaque = is_coded(reply)
    try:
        while True:
            chunk = await reply.read()
            if isinstance(chunk, BodyEnd):
                break
            if exchange.first_byte_ms is None:
                exchange.first_byte_ms = accounts.elapsed_ms(exchange)
            if not opaque:
                meter.feed(chunk)
                if meter.stopped and not settled:
                    await settle(Ended.FINISHED)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        last = b""
        if not settled:
            meter.finish()
            ended, last = _unfinished(exchange, chunk.failure, meter, opaque=opaque)
            await settle(ended)
    except LedgerUnavailable:
        exchange.line.abort()
        last = error_event(UNRECORDED.type, UNRECORDED.message, exchange.request_id)
    await send({"type": "http.response.body", "body": last, "more_body": False})


def _unfinished(exchange: Exchange, failure: Failure | None, meter: UsageMeter, *, opaque: bool) -> tuple[Ended, bytes]:
    """How a stream ended without a complete `message_stop` event, and what the client still gets."""
    if meter.stopped:  # it did say so, only the blank line after it was missing
        return Ended.FINISHED, b""
    if exchange.line.aborted:
        return Ended.CLIENT_LEFT, b""
    if opaque:
        return (Ended.FINISHED if failure is None else Ended.UPSTREAM_CUT), b""
    if meter.error_type is not None:  # the provider said so itself, and the client has it
        return Ended.ERROR if not meter.content_started else Ended.UPSTREAM_CUT, b""
    reason = failure.detail if failure else "the provider's stream ended"
    event = error_event("api_error", f"{reason}, before message_stop", exchange.request_id)
    # A line feed ends the provider's broken line and leaves its event open: the field `event: error` then renames it,
    # so that a client sees one error event and never half a delta.
    return Ended.UPSTREAM_CUT, event if meter.at_boundary else b"\n" + event


async def whole(exchange: Exchange, reply: Reply, accounts: Accounts, send: Send, *, shared_credential: bool) -> None:
    """Relay an answer that is one document, once it is complete and recorded."""
    body = await collect(reply, exchange.line)
    if isinstance(body, Failure):
        if body.kind is FailureKind.ABORTED:
            await accounts.settle_client_left(exchange)
            return
        await fail(exchange, body, accounts, send)
        return
    exchange.first_byte_ms = accounts.elapsed_ms(exchange)
    denied = refuse(reply, body, shared_credential=shared_credential)
    meter = UsageMeter(stream=False)
    if not is_coded(reply):
        meter.feed(body)
        meter.finish()
    status = denied.status if denied else reply.status
    ended = Ended.FINISHED if status < 400 else Ended.ERROR
    try:
        await accounts.settle_answer(
            exchange,
            meter,
            ended,
            status=status,
            upstream_request_id=header(reply, b"request-id").decode("latin-1") or None,
        )
    except LedgerUnavailable:
        denied = UNRECORDED
    if denied:
        await send_denied(send, denied, exchange.request_id)
    else:
        await send_whole(
            send, reply.status, head(reply, exchange.request_id, shared_credential=shared_credential), body
        )


async def fail(exchange: Exchange, failure: Failure, accounts: Accounts, send: Send) -> None:
    """Tell the client that no answer came, and why."""
    timed_out = failure.kind in (FailureKind.FIRST_BYTE_TIMEOUT, FailureKind.IDLE_TIMEOUT, FailureKind.WRITE_TIMEOUT)
    status, kind = (504, "timeout_error") if timed_out else (502, "api_error")
    await accounts.settle_failure(exchange, failure, status=status, error_type=kind)
    await send_denied(send, Denied(status, kind, failure.detail), exchange.request_id)


async def collect(reply: Reply, line: Abortable) -> bytes | Failure:
    """The whole body, at most 64 MiB of it; a longer one is cut off."""
    chunks: list[bytes] = []
    size = 0
    while True:
        chunk = await reply.read()
        if isinstance(chunk, BodyEnd):
            return chunk.failure or b"".join(chunks)
        size += len(chunk)
        if size > WHOLE_LIMIT:
            line.abort()
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
