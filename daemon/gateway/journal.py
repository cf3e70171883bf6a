"""An append-only journal on local disk: what was settled survives the process, whatever ends it.

A frame is `magic | length | CRC-32 of the payload | payload`. A torn frame at the end of a segment is what a crash
leaves and is dropped; a damaged one, whole but wrong, is set aside with its offset, and reading goes on at the next
magic.
"""

import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

MAGIC = b"\xa7PJ1"
SEGMENT_LIMIT = 4 * 1024 * 1024
FRAME_LIMIT = 16 * 1024 * 1024
_HEADER = struct.Struct(">4sII")


class JournalError(OSError):
    """A frame could not be written; the segment it was meant for is closed."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no frame, and where they were."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment that was read: its payloads in order, and what could not be read."""

    path: Path
    payloads: tuple[bytes, ...]
    damage: tuple[Damage, ...]


class Journal:
    """Writes one segment at a time. Owns its directory, which belongs to one process."""

    def __init__(self, directory: Path, *, write: Callable[[int, bytes], int] = os.write) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._write = write
        self._descriptor: int | None = None
        self._size = 0
        names = (path.stem for path in _segments(directory))
        self._number = max((int(name) for name in names if name.isdecimal()), default=0)
        self.path: Path | None = None  # the segment that is being written

    def append(self, payload: bytes) -> Path:
        """Write one frame to the page cache; returns the segment it is in. It survives the process, not a power cut.

        Raises:
            JournalError: nothing of the frame may be relied on.
        """
        frame = _HEADER.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload
        try:
            if self._descriptor is None or self._size >= SEGMENT_LIMIT:
                self._rotate()
            assert self._descriptor is not None
            assert self.path is not None
            if self._write(self._descriptor, frame) != len(frame):
                raise JournalError("short write")
        except OSError as error:
            self._abandon()
            raise JournalError(f"journal: {error.strerror or error}") from error
        self._size += len(frame)
        return self.path

    def old(self) -> list[Path]:
        """The segments that are not being written, oldest first."""
        return [path for path in _segments(self._directory) if path != self.path]

    def discard(self, path: Path) -> None:
        """Delete a segment whose records are all in the store; the one being written is closed first.

        One that cannot be deleted is read again at the next start, which changes nothing.
        """
        if path == self.path:
            self.close()
        with suppress(OSError):
            path.unlink()

    def set_aside(self, path: Path, damage: Damage) -> None:
        """Keep bytes that could not be read, for a person to look at.

        Raises:
            OSError: they could not be kept.
        """
        self._keep(f"{path.stem}-{damage.offset}", ".bad", damage.data)

    def reject(self, name: str, payload: bytes) -> None:
        """Keep a record that the store refuses, for a person to look at.

        Raises:
            OSError: it could not be kept.
        """
        self._keep(name, ".rejected", payload)

    def close(self) -> None:
        descriptor, self._descriptor, self.path, self._size = self._descriptor, None, None, 0
        if descriptor is not None:
            with suppress(OSError):  # what `write` took is in the page cache all the same
                os.close(descriptor)

    def _keep(self, name: str, suffix: str, data: bytes) -> None:
        """Numbers of segments come again after a start: what is kept never takes the place of something else."""
        for number in count():
            path = self._directory / f"{name}{f'-{number}' if number else ''}{suffix}"
            try:
                with path.open("xb") as file:
                    file.write(data)
            except FileExistsError:
                if path.read_bytes() == data:
                    return
            except OSError:
                with suppress(OSError):
                    path.unlink()
                raise
            else:
                return

    def _abandon(self) -> None:
        """Close the segment after a failed write; without a whole frame it is deleted, too."""
        path, empty = self.path, not self._size
        self.close()
        if path is not None and empty:
            with suppress(OSError):
                path.unlink()

    def _rotate(self) -> None:
        self.close()
        self._number += 1
        path = self._directory / f"{self._number:012d}.wal"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.path = path


def read_segment(path: Path) -> Segment:
    """Read a segment, however damaged it is.

    Raises:
        OSError: the disk does not give it.
    """
    data = path.read_bytes()
    payloads: list[bytes] = []
    damage: list[Damage] = []
    position = 0
    while position < len(data):
        payload = _frame_at(data, position)
        if payload is not None:
            payloads.append(payload)
            position += _HEADER.size + len(payload)
            continue
        following = data.find(MAGIC, position + 1)
        while following >= 0 and _frame_at(data, following) is None:
            following = data.find(MAGIC, following + 1)
        if following < 0:
            if not _is_torn(data, position):
                damage.append(Damage(position, data[position:]))
            break
        damage.append(Damage(position, data[position:following]))
        position = following
    return Segment(path, tuple(payloads), tuple(damage))


def _frame_at(data: bytes, position: int) -> bytes | None:
    if len(data) - position < _HEADER.size:
        return None
    magic, length, checksum = _HEADER.unpack_from(data, position)
    start = position + _HEADER.size
    if magic != MAGIC or length > FRAME_LIMIT or start + length > len(data):
        return None
    payload = data[start : start + length]
    return payload if zlib.crc32(payload) == checksum else None


def _is_torn(data: bytes, position: int) -> bool:
    """Whether what is left is the beginning of a frame: what a crash in the middle of a write leaves."""
    if len(data) - position < _HEADER.size:
        return True
    magic, length, _ = _HEADER.unpack_from(data, position)
    return bool(magic == MAGIC and position + _HEADER.size + length > len(data))


def _segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.wal"))
