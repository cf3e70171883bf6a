"""Brakes on guessing passwords: per account and address, with a back-off that doubles."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cachetools import LRUCache

from daemon.services.errors import Throttled

ATTEMPTS = 5
WINDOW = timedelta(minutes=1)
LONGEST_BLOCK = timedelta(minutes=15)
_REMEMBERED = 10_000


@dataclass(slots=True)
class _History:
    attempts: list[datetime] = field(default_factory=list)
    block: timedelta = timedelta(0)
    blocked_until: datetime | None = None


class Throttle:
    """Counts attempts before they are checked, so that many at once cannot slip through."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._histories: LRUCache[tuple[str, str], _History] = LRUCache(_REMEMBERED)

    def attempt(self, account: str, address: str) -> None:
        """Count one attempt.

        Raises:
            Throttled: this address has tried this account too often.
        """
        now = self._now()
        history = self._histories.get((account, address))
        if history is None:
            history = self._histories[(account, address)] = _History()
        if history.blocked_until is not None and now < history.blocked_until:
            raise _throttled(history.blocked_until - now)
        history.attempts = [instant for instant in history.attempts if now - instant < WINDOW]
        # after a block one attempt is free, then the next block is twice as long
        allowed = 1 if history.block and self._recently_blocked(history, now) else ATTEMPTS
        if len(history.attempts) >= allowed:
            history.block = min(max(history.block * 2, WINDOW), LONGEST_BLOCK)
            history.blocked_until = now + history.block
            history.attempts.clear()
            raise _throttled(history.block)
        history.attempts.append(now)

    def succeeded(self, account: str, address: str) -> None:
        """Forget what came before a right password."""
        self._histories.pop((account, address), None)

    def _recently_blocked(self, history: _History, now: datetime) -> bool:
        if history.blocked_until is None or now - history.blocked_until >= LONGEST_BLOCK:
            history.block = timedelta(0)
            return False
        return True


def _throttled(wait: timedelta) -> Throttled:
    seconds = max(1, -int(-wait.total_seconds() // 1))
    return Throttled("too many attempts to sign in, try again later", retry_after=seconds)
