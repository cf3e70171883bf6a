"""Server-sent events, scanned as they pass.

The scanner sees a copy of the bytes: it never changes them, and it understands what the standard allows (LF, CRLF and
CR line ends, comments, data over several lines, events split anywhere).
Source: WHATWG HTML, section 9.2 "Server-sent events".
"""

EVENT_LIMIT = 8 * 1024 * 1024


class SseScanner:
    """Cuts a byte stream into event blocks: the lines of one event, LF between them, without the blank line."""

    __slots__ = ("_buffer", "_searched", "_skipping", "_swallow_lf", "oversized")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._swallow_lf = False
        self._skipping = False
        self.oversized = False  # an event beyond 8 MiB went past unread

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end between two events."""
        return not self._buffer and not self._skipping

    def feed(self, data: bytes) -> list[bytes]:
        """Blocks that these bytes complete."""
        if self._swallow_lf or b"\r" in data:
            data = self._normalise(data)
        if not self._buffer and not self._skipping and data.endswith(b"\n\n"):  # whole events, as nearly always
            return [block for part in data.split(b"\n\n") if (block := part.strip(b"\n"))]
        buffer = self._buffer
        buffer += data
        blocks: list[bytes] = []
        start = 0
        while (end := buffer.find(b"\n\n", max(start, self._searched - 1))) >= 0:
            if end > start and not self._skipping:
                blocks.append(bytes(buffer[start:end]))
            self._skipping = False
            start = end + 2
        del buffer[:start]
        if len(buffer) > EVENT_LIMIT:
            self.oversized = self._skipping = True
            del buffer[:-1]
        self._searched = len(buffer)
        return [block for part in blocks if (block := part.strip(b"\n"))]

    def _normalise(self, data: bytes) -> bytes:
        """CRLF and CR become LF; an LF whose CR ended the bytes before is dropped."""
        if self._swallow_lf and data:
            self._swallow_lf = False
            if data.startswith(b"\n"):
                data = data[1:]
        if data.endswith(b"\r"):
            self._swallow_lf = True
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def parse_event(block: bytes) -> tuple[str, bytes]:
    """Name and data of an event block; the name is `message` when there is no `event` field."""
    name, data = "message", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return name, b"\n".join(data)
