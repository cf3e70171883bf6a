"""Who asks: from an access key to a principal, by way of a bounded cache."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cachetools import LRUCache

from daemon.core.identity import Conflict, KeyFound, NoKey, find_access_key, looks_like_access_key
from daemon.gateway.answers import NO_RETRY, Denied
from daemon.services.directory import Principal

CACHE_SIZE = 50_000
NEGATIVE_SECONDS = 10.0
_REFUSED = Denied(401, "authentication_error", "invalid access key", (NO_RETRY,))
_CONFLICT = Denied(
    400, "invalid_request_error", "conflicting credentials: the request carries two different access keys"
)
_UNKNOWABLE = Denied(
    503, "api_error", "the access key cannot be checked right now, try again shortly", ((b"retry-after", b"5"),)
)


class KeyDirectory(Protocol):
    """Where principals are looked up."""

    async def lookup(self, key_hash: str, now: datetime) -> Principal | None: ...


@dataclass(frozen=True, slots=True)
class Admitted:
    """A principal, and the key it came with (to keep it from going upstream)."""

    principal: Principal
    access_key: str


@dataclass(slots=True)
class _Entry:
    principal: Principal | None
    verified: float


class Admission:
    """Admits requests. One instance a process; `invalidate` after any change to users or keys."""

    def __init__(
        self,
        directory: KeyDirectory,
        *,
        hash_key: Callable[[str], str],
        ttl: float,
        max_stale: float,
        monotonic: Callable[[], float],
        now: Callable[[], datetime],
        outages: tuple[type[Exception], ...],
    ) -> None:
        self._directory = directory
        self._hash_key = hash_key
        self._ttl = ttl
        self._max_stale = max(max_stale, ttl)
        self._monotonic = monotonic
        self._now = now
        self._outages = outages
        self._cache: LRUCache[str, _Entry] = LRUCache(CACHE_SIZE)
        self._pending: dict[str, asyncio.Future[None]] = {}
        self._generation = 0

    def invalidate(self) -> None:
        """Forget everything, including look-ups that are under way."""
        self._generation += 1
        self._cache.clear()

    async def admit(self, path_key: str | None, headers: Sequence[tuple[bytes, bytes]]) -> Admitted | Denied:
        """The principal of a request. Unknown, revoked, expired and malformed keys get the same answer."""
        match find_access_key(path_key, headers):
            case Conflict():
                return _CONFLICT
            case NoKey():
                return _REFUSED
            case KeyFound(raw=raw):
                pass
        if not looks_like_access_key(raw):
            return _REFUSED
        try:
            principal = await self._principal(self._hash_key(raw))
        except KeyUnverifiable:
            return _UNKNOWABLE
        return _REFUSED if principal is None else Admitted(principal, raw)

    async def _principal(self, key_hash: str) -> Principal | None:
        entry = self._cache.get(key_hash)
        if entry is None or not self._fresh(entry):
            entry = await self._refresh(key_hash, entry)
        principal = entry.principal
        if principal is not None and principal.valid_until is not None and principal.valid_until <= self._now():
            return None
        return principal

    def _fresh(self, entry: _Entry) -> bool:
        age = self._monotonic() - entry.verified
        return age < (self._ttl if entry.principal is not None else min(self._ttl, NEGATIVE_SECONDS))

    async def _refresh(self, key_hash: str, stale: _Entry | None) -> _Entry:
        """Look the key up, once for all requests that wait; what was known before serves while the store is away."""
        while (pending := self._pending.get(key_hash)) is not None:
            await asyncio.shield(pending)
            entry = self._cache.get(key_hash)
            if entry is not None and self._fresh(entry):
                return entry
        done = asyncio.get_running_loop().create_future()
        self._pending[key_hash] = done
        generation = self._generation
        try:
            entry = _Entry(await self._directory.lookup(key_hash, self._now()), self._monotonic())
        except self._outages as error:
            if stale is None or self._monotonic() - stale.verified >= self._max_stale or generation != self._generation:
                raise KeyUnverifiable from error
            return stale
        finally:
            del self._pending[key_hash]
            done.set_result(None)
        if generation == self._generation:
            self._cache[key_hash] = entry
        return entry


class KeyUnverifiable(Exception):
    """The store cannot be asked, and the key is not known well enough to go on without it."""
