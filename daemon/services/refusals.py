"""Attempts to sign in that were refused unchecked: counted, and told to the audit log once a minute at most."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

EVERY = timedelta(minutes=1)
_MOST_ADDRESSES = 20


class Refusals:
    """A flood of attempts makes one row a minute. What came after the last row is told with the next attempt."""

    def __init__(self) -> None:
        self._since: datetime | None = None
        self._told: datetime | None = None
        self._addresses: Counter[str] = Counter()
        self._others = 0

    def note(self, address: str | None, now: datetime) -> None:
        """Count one."""
        self._since = self._since or now
        name = address or "unknown"
        if name in self._addresses or len(self._addresses) < _MOST_ADDRESSES:
            self._addresses[name] += 1
        else:
            self._others += 1

    def due(self, now: datetime) -> dict[str, Any] | None:
        """What has to be told now, if anything; it counts as told."""
        if self._since is None or (self._told is not None and now - self._told < EVERY):
            return None
        row = {
            "attempts": sum(self._addresses.values()) + self._others,
            "since": self._since.isoformat(),
            "addresses": dict(self._addresses),
            "from_other_addresses": self._others,
        }
        self._told, self._since, self._others = now, None, 0
        self._addresses = Counter()
        return row
