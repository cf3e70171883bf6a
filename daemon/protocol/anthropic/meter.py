"""Reads the usage out of an answer while its bytes go past."""

from typing import Any

import orjson

from daemon.core.tokens import TokenCounts
from daemon.protocol.sse import SseScanner, parse_event

PLAUSIBLE = 1_000_000_000  # tokens; beyond that a number is a fault, not a usage
_DELTA = b'"type":"content_block_delta"'
_DELTA_EVENT = b"event: content_block_delta\n"
_DELTA_OPENS = b'"delta":{'
_DELTA_FRAME = len(b'"type":"text_delta","text":""}}')


class UsageMeter:
    """Usage, model and end of one answer: server-sent events, or one JSON document.

    Counts in events are cumulative: the maximum of each field over `message_start` and all `message_delta` holds.
    Values that cannot be (negative, absurd, not numbers) are left out and flagged as `suspect`.
    """

    def __init__(self, *, stream: bool) -> None:
        self._scanner = SseScanner() if stream else None
        self._document: list[bytes] = []
        self._counts: dict[str, int] = {}
        self._prompt_known = False
        self._output_known = False
        self._error_type: str | None = None
        self._suspect = False
        self.error_message = ""
        self.model: str | None = None
        self.stopped = False  # `message_stop` has passed, or the document is complete
        self.content_started = False
        self.text_bytes = 0  # what the client got to read, in bytes
        self.speed: str | None = None
        self.inference_geo: str | None = None

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the body."""
        if self._scanner is None:
            self._document.append(data)
            return
        for block in self._scanner.feed(data):
            if block.startswith(_DELTA_EVENT) or _DELTA in block:
                self._count_text(block)
            else:
                self._event(block)

    def finish(self) -> None:
        """The body has ended: read the document, or the event whose blank line never came."""
        if self._scanner is not None:
            for block in self._scanner.feed(b"\n\n") if not self._scanner.at_boundary else ():
                if b"message_stop" in block or b"message_delta" in block:
                    self._event(block)
            return
        document = _object(b"".join(self._document))
        if document is None:
            return
        if document.get("type") == "error":
            self._error(document)
            return
        self.stopped = True
        self._message(document)
        self._output_known = self._usage(document.get("usage"), final=True)

    @property
    def tokens(self) -> TokenCounts:
        counts = self._counts
        written, hour = counts.get("cache_write", 0), counts.get("cache_write_1h", 0)
        return TokenCounts(
            input=counts.get("input", 0),
            output=counts.get("output", 0),
            cache_write_5m=max(counts.get("cache_write_5m", 0), written - hour),
            cache_write_1h=hour,
            cache_read=counts.get("cache_read", 0),
            thinking=counts.get("thinking", 0),
        )

    @property
    def prompt_known(self) -> bool:
        """Whether the provider has counted the prompt."""
        return self._prompt_known

    @property
    def output_seen(self) -> int:
        """Output tokens so far: what was reported, or what the text that passed comes to."""
        return max(self._counts.get("output", 0), self.text_bytes // 4)

    @property
    def exact(self) -> bool:
        """Whether the provider reported the usage of the whole answer."""
        return self._prompt_known and self._output_known and not self._suspect

    @property
    def suspect(self) -> bool:
        return self._suspect or (self._scanner is not None and self._scanner.oversized)

    @property
    def error_type(self) -> str | None:
        """Type of the error the provider answered with, in an event or as the document."""
        return self._error_type

    @property
    def at_boundary(self) -> bool:
        return self._scanner is None or self._scanner.at_boundary

    def take_counts(self, *, input_tokens: int, output_tokens: int, cache_read: int, cache_write: int) -> None:
        """Counts of the whole answer from another source than its events."""
        counts = {"input": input_tokens, "output": output_tokens, "cache_read": cache_read, "cache_write": cache_write}
        for name, value in counts.items():
            self._take(value, name)
        self._prompt_known = self._output_known = True

    def _event(self, block: bytes) -> None:
        name, data = parse_event(block)
        document = _object(data) if data else None
        if document is None:
            self._suspect = self._suspect or name in ("message_start", "message_delta")
            return
        match document.get("type", name):
            case "message_start":
                message = document.get("message")
                if isinstance(message, dict):
                    self._message(message)
            case "message_delta":
                self._output_known = self._usage(document.get("usage"), final=True)
            case "message_stop":
                self.stopped = True
            case "content_block_start":
                self.content_started = True
            case "error":
                self._error(document)

    def _message(self, message: dict[str, Any]) -> None:
        model = message.get("model")
        if isinstance(model, str) and model.isprintable():
            self.model = model
        self._prompt_known = self._usage(message.get("usage"), final=False)

    def _error(self, document: dict[str, Any]) -> None:
        error = document.get("error")
        kind = error.get("type") if isinstance(error, dict) else None
        self._error_type = kind[:64] if isinstance(kind, str) and kind.isprintable() and kind else "api_error"
        message = error.get("message") if isinstance(error, dict) else None
        self.error_message = message if isinstance(message, str) else ""

    def _usage(self, usage: object, *, final: bool) -> bool:
        """Merge a usage object by the maximum of each field; True when it holds what it must."""
        if not isinstance(usage, dict):
            return False
        for field, name in (
            ("input_tokens", "input"),
            ("output_tokens", "output"),
            ("cache_creation_input_tokens", "cache_write"),
            ("cache_read_input_tokens", "cache_read"),
        ):
            self._take(usage.get(field), name)
        written = usage.get("cache_creation")
        if isinstance(written, dict):
            self._take(written.get("ephemeral_5m_input_tokens"), "cache_write_5m")
            self._take(written.get("ephemeral_1h_input_tokens"), "cache_write_1h")
        details = usage.get("output_tokens_details")
        if isinstance(details, dict):
            self._take(details.get("thinking_tokens"), "thinking")
        for field in ("speed", "inference_geo"):
            if isinstance(usage.get(field), str):
                setattr(self, field, usage[field])
        return type(usage.get("output_tokens" if final else "input_tokens")) is int

    def _take(self, value: object, name: str) -> None:
        if value is None:
            return
        if type(value) is not int or not 0 <= value <= PLAUSIBLE:
            self._suspect = True
            return
        self._counts[name] = max(value, self._counts.get(name, 0))

    def _count_text(self, block: bytes) -> None:
        self.content_started = True
        delta = block.find(_DELTA_OPENS)
        self.text_bytes += max(0, len(block) - delta - len(_DELTA_OPENS) - _DELTA_FRAME)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
