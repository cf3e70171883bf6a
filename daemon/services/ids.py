"""Ids: UUIDv7 (RFC 9562), made from a clock and a source of randomness that are arguments."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID


def uuid7(now: datetime, token_bytes: Callable[[int], bytes]) -> UUID:
    """48 bits of milliseconds, version and variant, 74 random bits."""
    milliseconds = int(now.timestamp() * 1000)
    random = int.from_bytes(token_bytes(10)) >> 6
    high, low = random >> 62, random & (2**62 - 1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)
