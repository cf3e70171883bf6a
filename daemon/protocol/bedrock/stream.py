"""Bedrock's streams as the server-sent events of the Messages API.

Two forms come in: AWS event-stream frames with one event of the Messages API in each, and server-sent events. Out of
both come the same events; what only Bedrock says (its invocation metrics) is taken out and kept, and the model is
named as the client asked for it. A frame that is damaged, cut off or an exception never becomes an event of its own
making: the stream is `broken`, or carries `event: error`, and has no end that did not arrive.
Source: AWS, "Event stream encoding"; botocore.eventstream does the decoding.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from daemon.protocol.bedrock.errors import BedrockError, named_error
from daemon.protocol.sse import SseScanner, parse_event

METRICS = "amazon-bedrock-invocationMetrics"
_METRICS_BYTES = METRICS.encode()
_DELTA = b'{"type":"content_block_delta"'
# Status of a modeled exception inside a stream, by botocore's service model; the frame itself does not carry it.
_EXCEPTION_STATUS = {
    "internalServerException": 500,
    "modelStreamErrorException": 424,
    "modelTimeoutException": 408,
    "serviceUnavailableException": 503,
    "throttlingException": 429,
    "validationException": 400,
}


@dataclass(frozen=True, slots=True)
class InvocationMetrics:
    """Token counts as Bedrock bills them; `input` excludes cached tokens."""

    input: int
    output: int
    cache_read: int
    cache_write: int


class Translator(Protocol):
    """Takes a provider's bytes, gives the client's."""

    broken: str | None  # why the bytes cannot be trusted any further
    error: BedrockError | None  # the exception the stream ended with
    metrics: InvocationMetrics | None
    served_model: str | None  # as Bedrock named it

    def feed(self, data: bytes) -> bytes:
        """Events that these bytes complete, ready for the client."""
        ...

    def finish(self) -> bytes:
        """The bytes have ended: what may still go out. Sets `broken` when they ended inside a frame."""
        ...


class _Events:
    """What both forms do with one event."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.broken: str | None = None
        self.error: BedrockError | None = None
        self.metrics: InvocationMetrics | None = None
        self.served_model: str | None = None

    def rewrite(self, data: bytes) -> tuple[str, bytes]:
        """Name and data of an event, as the client gets it."""
        if data.startswith(_DELTA):  # nearly all are; nothing in them is ours to change
            return "content_block_delta", data
        document = _object(data)
        if document is None:
            return "message", data
        kind = document.get("type")
        name = kind if isinstance(kind, str) and kind.isidentifier() else "message"
        changed = False
        message = document.get("message")
        if name == "message_start" and isinstance(message, dict) and isinstance(message.get("model"), str):
            self.served_model = message["model"]
            changed = message["model"] != self._model
            message["model"] = self._model
        found = document.pop(METRICS, None) if _METRICS_BYTES in data else None
        if found is not None:
            self.metrics = read_metrics(found)
            changed = True
        # A line feed inside the data would end it; JSON needs none.
        if changed or b"\n" in data or b"\r" in data:
            data = orjson.dumps(document)
        return name, data


class EventStreamTranslator(_Events):
    """AWS event-stream frames to server-sent events."""

    def __init__(self, model: str) -> None:
        from botocore.eventstream import EventStreamBuffer, ParserError  # heavy: paid by the first Bedrock request

        super().__init__(model)
        self._frames = EventStreamBuffer()
        self._damage = ParserError
        self._pending = 0  # bytes of a frame that is not complete

    def feed(self, data: bytes) -> bytes:
        if self.broken or self.error:
            return b""
        self._frames.add_data(data)
        self._pending += len(data)
        out: list[bytes] = []
        try:
            for frame in self._frames:
                self._pending -= frame.prelude.total_length
                out.append(self._event(frame))
                if self.broken or self.error:
                    break
        except self._damage as damage:
            self.broken = f"a damaged frame from Bedrock ({type(damage).__name__})"
        return b"".join(out)

    def finish(self) -> bytes:
        if self._pending and not self.broken and not self.error:
            self.broken = "Bedrock's stream ended inside a frame"
        return b""

    def _event(self, frame: Any) -> bytes:
        headers = frame.headers
        match headers.get(":message-type", "event"):
            case "exception":
                name = str(headers.get(":exception-type", ""))
                return self._failed(name, str((_object(frame.payload) or {}).get("message", "")))
            case "error":
                return self._failed(str(headers.get(":error-code", "")), str(headers.get(":error-message", "")))
            case "event" if headers.get(":event-type", "chunk") == "chunk":
                return self._chunk(frame.payload)
            case _:  # a kind of event that is not ours to know
                return b""

    def _chunk(self, payload: bytes) -> bytes:
        encoded = (_object(payload) or {}).get("bytes")
        try:
            data = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else None
        except binascii.Error:
            data = None
        if data is None:
            self.broken = "a frame from Bedrock without its bytes"
            return b""
        name, data = self.rewrite(data)
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)

    def _failed(self, name: str, text: str) -> bytes:
        name = name[:1].upper() + name[1:]
        status = _EXCEPTION_STATUS.get(name[:1].lower() + name[1:], 500)
        self.error = named_error(name, text, status=status)
        return b""


class SseTranslator(_Events):
    """Bedrock's server-sent events, whole events at a time: half an event is never passed on."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._scanner = SseScanner()

    def feed(self, data: bytes) -> bytes:
        if self.broken:
            return b""
        out: list[bytes] = []
        for block in self._scanner.feed(data):
            if _METRICS_BYTES in block or (self.served_model is None and b"message_start" in block):
                name, content = parse_event(block)
                block = b"event: %b\ndata: %b" % (name.encode(), self.rewrite(content)[1])
            out += (block, b"\n\n")
        if self._scanner.oversized:
            self.broken = "an event from Bedrock that is too large"
        return b"".join(out)

    def finish(self) -> bytes:
        if self._scanner.at_boundary or self.broken:
            return b""
        [block] = self._scanner.feed(b"\n\n") or [b""]
        name, content = parse_event(block)
        if name == "message_stop" and (_object(content) or {}).get("type") == name:  # only its blank line is missing
            return b"event: message_stop\ndata: %b\n\n" % self.rewrite(content)[1]
        self.broken = "Bedrock's stream ended inside an event"
        return b""


def rewrite_document(body: bytes, model: str) -> tuple[bytes, str | None, InvocationMetrics | None]:
    """A whole answer for the client, the model that served, and Bedrock's own counts."""
    document = _object(body)
    if document is None:
        return body, None, None
    served = document.get("model")
    found = document.pop(METRICS, None)
    if isinstance(served, str):
        document["model"] = model
    if not isinstance(served, str) and found is None:
        return body, None, None
    return orjson.dumps(document), served if isinstance(served, str) else None, read_metrics(found)


def read_metrics(found: object) -> InvocationMetrics | None:
    """Invocation metrics as JSON object, None when they are not what they should be."""
    if not isinstance(found, dict):
        return None
    names = ("inputTokenCount", "outputTokenCount", "cacheReadInputTokenCount", "cacheWriteInputTokenCount")
    counts = [found.get(name, 0) for name in names]
    if not all(type(count) is int and 0 <= count <= 1_000_000_000 for count in counts):
        return None
    return InvocationMetrics(*counts)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
