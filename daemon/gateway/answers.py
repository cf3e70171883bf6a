"""Answers of our own on the data plane: one error shape, always with a request id."""

from dataclasses import dataclass

from daemon.protocol.anthropic.errors import error_body
from daemon.protocol.asgi import Send

NO_RETRY = (b"x-should-retry", b"false")


@dataclass(frozen=True, slots=True)
class Denied:
    """A refusal: HTTP status, Anthropic error type, one sentence, and extra headers."""

    status: int
    type: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


async def send_denied(send: Send, denied: Denied, request_id: str) -> None:
    """Send a refusal in Anthropic's error shape."""
    await send_json(
        send, denied.status, error_body(denied.type, denied.message, request_id), request_id, headers=denied.headers
    )


async def send_json(
    send: Send, status: int, body: bytes, request_id: str, *, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Send a JSON document of our own."""
    await send_whole(
        send,
        status,
        [(b"content-type", b"application/json"), (b"request-id", request_id.encode()), *headers],
        body,
    )


async def send_whole(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Send an answer whose body is at hand, with its length."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
