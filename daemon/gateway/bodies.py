"""Request bodies: read whole, within a limit each and a budget together."""

from collections.abc import Sequence

from daemon.gateway.answers import Denied
from daemon.protocol.asgi import Receive

BODY_LIMIT = 32 * 1024 * 1024
_TOO_LARGE = Denied(413, "request_too_large", f"request body exceeds {BODY_LIMIT >> 20} MiB")
_CROWDED = Denied(
    529, "overloaded_error", "too many large requests at once, try again shortly", ((b"retry-after", b"2"),)
)


class ClientLeft(Exception):
    """The client closed the connection before its request was complete; nobody waits for an answer."""


class BodyReader:
    """Reads bodies while the sum of those held stays below `budget` bytes; whoever got one gives it back."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.held = 0

    async def read(self, receive: Receive, headers: Sequence[tuple[bytes, bytes]]) -> bytes | Denied:
        """The body, or why it is refused.

        Raises:
            ClientLeft: the connection ended first.
        """
        refusal = _refuse_coding(headers)
        if refusal:
            return refusal
        announced = next((value for name, value in headers if name == b"content-length"), b"")
        if announced and int(announced) > BODY_LIMIT:
            return _TOO_LARGE
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.held -= size
                raise ClientLeft
            chunk = message.get("body", b"")
            size += len(chunk)
            self.held += len(chunk)
            if size > BODY_LIMIT or self.held > self._budget:
                self.held -= size
                return _TOO_LARGE if size > BODY_LIMIT else _CROWDED
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def release(self, body: bytes) -> None:
        self.held -= len(body)


def _refuse_coding(headers: Sequence[tuple[bytes, bytes]]) -> Denied | None:
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            return Denied(
                415, "invalid_request_error", "content-encoding: expected identity, the body is read as it is"
            )
        if name == b"content-type":
            kind, _, parameters = value.lower().partition(b";")
            if kind.strip() not in (b"application/json", b"text/plain", b""):
                return Denied(415, "invalid_request_error", "content-type: expected application/json")
            charset = parameters.partition(b"charset=")[2].strip(b' "')
            if charset not in (b"", b"utf-8", b"utf8", b"us-ascii"):
                return Denied(400, "invalid_request_error", "content-type: expected charset utf-8")
    return None
