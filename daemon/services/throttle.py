"""Brakes on guessing passwords: per account and address, per address, and for all together.

What is counted is in this process: each replica allows as much for itself.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from cachetools import LRUCache

from daemon.services.errors import Throttled

ATTEMPTS = 5
ATTEMPTS_OF_ADDRESS = 10
WINDOW = timedelta(minutes=1)
LONGEST_BLOCK = timedelta(minutes=15)
# Wrong passwords that are checked in a minute: whoever has failed gets half of the room, addresses without a failure
# more, those that have signed in before the whole.
ROOM_KNOWN, ROOM_CLEAN, ROOM_SUSPECT = 60, 50, 30
_REMEMBERED = 10_000


@dataclass(slots=True)
class _History:
    attempts: list[datetime] = field(default_factory=list)
    block: timedelta = timedelta(0)
    blocked_until: datetime | None = None


@dataclass(slots=True)
class _Address:
    unproven: int = 0  # attempts since the last right password
    last: datetime | None = None
    known: bool = False  # a right password came from here


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that may be checked. `suspicion` is how many attempts its address has made without success, now."""

    account: str
    network: str
    at: datetime
    suspicion: Callable[[], int]


class Throttle:
    """Counts attempts before they are checked, so that many at once cannot slip through."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._histories: LRUCache[tuple[str | None, str], _History] = LRUCache(_REMEMBERED)
        self._addresses: LRUCache[str, _Address] = LRUCache(_REMEMBERED)
        self._checked: list[datetime] = []  # never more than ROOM_KNOWN

    def attempt(self, account: str, address: str) -> Attempt:
        """Count one attempt.

        Raises:
            Throttled: this address has tried this account too often, or all accounts, or too many others are trying.
        """
        now, network = self._now(), _network(address)
        source = self._arrive(network, now)
        self._brake((account, network), ATTEMPTS, now)
        self._brake((None, network), ATTEMPTS_OF_ADDRESS, now)
        self._take_room(source, now)
        return Attempt(account, network, now, partial(self._unproven, network))

    def succeeded(self, attempt: Attempt) -> None:
        """Forget what came before a right password."""
        self._histories.pop((attempt.account, attempt.network), None)
        self._histories.pop((None, attempt.network), None)
        self._addresses[attempt.network] = _Address(known=True)
        self.unchecked(attempt)

    def unchecked(self, attempt: Attempt) -> None:
        """Give back the room of an attempt that was no guess."""
        if attempt.at in self._checked:
            self._checked.remove(attempt.at)

    def _arrive(self, network: str, now: datetime) -> _Address:
        source = self._addresses.get(network)
        if source is None:
            source = self._addresses[network] = _Address()
        if source.last is not None and now - source.last >= LONGEST_BLOCK:
            source.unproven = 0
        source.unproven += 1
        source.last = now
        return source

    def _unproven(self, network: str) -> int:
        source = self._addresses.get(network)
        return source.unproven if source is not None else 0

    def _brake(self, key: tuple[str | None, str], attempts: int, now: datetime) -> None:
        history = self._histories.get(key)
        if history is None:
            history = self._histories[key] = _History()
        if history.blocked_until is not None and now < history.blocked_until:
            raise _throttled(history.blocked_until - now)
        history.attempts = [instant for instant in history.attempts if now - instant < WINDOW]
        # after a block one attempt is free, then the next block is twice as long
        allowed = 1 if history.block and _recently_blocked(history, now) else attempts
        if len(history.attempts) >= allowed:
            history.block = min(max(history.block * 2, WINDOW), LONGEST_BLOCK)
            history.blocked_until = now + history.block
            history.attempts.clear()
            raise _throttled(history.block)
        history.attempts.append(now)

    def _take_room(self, source: _Address, now: datetime) -> None:
        self._checked = [instant for instant in self._checked if now - instant < WINDOW]
        room = ROOM_KNOWN if source.known else ROOM_SUSPECT if source.unproven > 1 else ROOM_CLEAN
        if len(self._checked) >= room:
            raise _throttled(WINDOW - (now - self._checked[0]))
        self._checked.append(now)


def _recently_blocked(history: _History, now: datetime) -> bool:
    if history.blocked_until is None or now - history.blocked_until >= LONGEST_BLOCK:
        history.block = timedelta(0)
        return False
    return True


def _network(address: str) -> str:
    """An address, or the /64 of an IPv6 one: whoever has one of these has all."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64)))


def _throttled(wait: timedelta) -> Throttled:
    seconds = max(1, -int(-wait.total_seconds() // 1))
    return Throttled("too many attempts to sign in, try again later", retry_after=seconds)
