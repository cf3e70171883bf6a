"""Rows of an export in a stream of bytes: which are whole, and where the last one ends."""

import csv
import json
import re
from typing import IO

_CURSOR = re.compile(r"[A-Za-z0-9_-]+")


class Rows:
    """Takes bytes and gives back whole rows. `quoted`: as in CSV, a line break within quotes belongs to the row."""

    def __init__(self, *, quoted: bool) -> None:
        self._quoted = quoted
        self._rest = b""
        self._told = 0
        self.count = 0
        self.last = b""

    def feed(self, data: bytes) -> bytes:
        """The rows that are whole by now."""
        self._rest += data
        end = 0
        for start, stop in self._bounds():
            self.count += 1
            self.last = self._rest[start:stop]
            end = stop
        whole, self._rest = self._rest[:end], self._rest[end:]
        return whole

    def taken(self) -> int:
        """How many rows became whole since this was last asked."""
        fresh = self.count - self._told
        self._told = self.count
        return fresh

    def _bounds(self) -> list[tuple[int, int]]:
        found, start, at = [], 0, 0
        while (end := self._rest.find(b"\n", at) + 1) > 0:
            at = end
            if not (self._quoted and self._rest.count(b'"', start, end) % 2):
                found.append((start, end))
                start = end
        return found


def cursor_of(row: bytes, *, quoted: bool) -> str | None:
    """The cursor of a row, None when it has none."""
    try:
        if quoted:
            cells = next(csv.reader([row.decode()]), [])
            return cells[-1] if len(cells) > 1 and _CURSOR.fullmatch(cells[-1]) and cells[-1] != "cursor" else None
        document = json.loads(row)
        return str(document["cursor"]) if isinstance(document, dict) and "cursor" in document else None
    except (ValueError, csv.Error):
        return None


def kept(file: IO[bytes], *, quoted: bool) -> tuple[int, bytes, int]:
    """Where the last whole row of a file ends, that row, and how many there are."""
    rows, end = Rows(quoted=quoted), 0
    while chunk := file.read(1 << 20):
        end += len(rows.feed(chunk))
    return end, rows.last, rows.count
