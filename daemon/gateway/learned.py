"""What requests have taught: which fields a model behind Bedrock does not take, and where sessions are.

Decided in memory, kept in the store, loaded again when another replica has learned something.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

import structlog
from cachetools import LRUCache
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.strategy import Provider
from daemon.observability.tasks import Saves
from daemon.protocol.bedrock.compat import Learned, Rule
from daemon.store import routing
from daemon.store.engine import OUTAGES
from daemon.store.epochs import bump

log = structlog.get_logger()

Write = Callable[[], AbstractAsyncContextManager[AsyncConnection]]
SESSIONS = 50_000
_NOTHING = Learned()
_REASON = 256


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session is: with `provider` until an instant (monotonic), its thinking healed by `healing`."""

    provider: Provider
    until: float
    healing: str | None


class Compatibility:
    """Rules by region and Bedrock model."""

    def __init__(
        self, write: Write, saves: Saves, *, ttl: float, now: Callable[[], datetime], new_id: Callable[[], UUID]
    ) -> None:
        self._write = write
        self._saves = saves
        self._ttl = timedelta(seconds=ttl)
        self._now = now
        self._new_id = new_id
        self._rules: dict[tuple[str, str], dict[Rule, datetime]] = {}
        self._cache: dict[tuple[str, str], Learned] = {}

    def rules(self, region: str, bedrock_id: str) -> Learned:
        """What is known of a model in a region."""
        known = self._rules.get((region, bedrock_id))
        if not known:
            return _NOTHING
        now = self._now()
        if any(end <= now for end in known.values()):
            self._rules[region, bedrock_id] = known = {rule: end for rule, end in known.items() if end > now}
            self._cache.pop((region, bedrock_id), None)
        learned = self._cache.get((region, bedrock_id))
        if learned is None:
            learned = self._cache[region, bedrock_id] = Learned(frozenset(known))
        return learned

    def rejected_profiles(self, region: str) -> frozenset[str]:
        """Profiles that turned out not to exist in a region."""
        now = self._now()
        return frozenset(
            rule.value
            for place, known in self._rules.items()
            if place[0] == region
            for rule, end in known.items()
            if rule.kind == "profile" and end > now
        )

    def learn(self, region: str, bedrock_id: str, rules: frozenset[Rule], reason: str) -> None:
        """Remember rules."""
        known = self._rules.setdefault((region, bedrock_id), {})
        fresh = rules - known.keys()
        if not fresh:
            return
        end = self._now() + self._ttl
        known.update(dict.fromkeys(fresh, end))
        self._cache.pop((region, bedrock_id), None)
        for rule in sorted(fresh, key=lambda rule: (rule.kind, rule.value)):
            log.info("learned", region=region, model=bedrock_id, kind=rule.kind, value=rule.value)
        self._saves.start(self._save(region, bedrock_id, fresh, reason, end), name="compatibility save")

    async def load(self, connection: AsyncConnection) -> None:
        """Take over what is in the store."""
        self._rules, self._cache = {}, {}
        for row in await routing.load_rules(connection, self._now()):
            rules = self._rules.setdefault((row["region"], row["model"]), {})
            rules[Rule(row["kind"], row["value"])] = row["expires_at"]

    async def _save(self, region: str, bedrock_id: str, rules: frozenset[Rule], reason: str, end: datetime) -> None:
        now = self._now()
        shown = "".join(character if character.isprintable() else " " for character in reason)[:_REASON]
        rows = [
            {
                "id": self._new_id(),
                "provider": "bedrock",
                "region": region,
                "model": bedrock_id,
                "kind": rule.kind,
                "value": rule.value,
                "reason": shown,
                "learned_at": now,
                "expires_at": end,
            }
            for rule in rules
        ]
        try:
            async with self._write() as connection:
                await routing.save_rules(connection, rows)
                await bump(connection, "routing", now)
        except OUTAGES as error:
            log.warning("compatibility not saved", reason=type(error).__name__)


class Sessions:
    """Sessions that have moved to another provider than the first of their route."""

    def __init__(
        self,
        write: Write,
        saves: Saves,
        *,
        dwell: float,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._write = write
        self._saves = saves
        self._dwell = dwell
        self._now = now
        self._monotonic = monotonic
        self._places: LRUCache[tuple[UUID, str], Place] = LRUCache(SESSIONS)

    def find(self, access_key_id: UUID, session_id: str | None) -> Place | None:
        """Where a session is, None for one that never moved."""
        return self._places.get((access_key_id, session_id)) if session_id else None

    def sticky(self, place: Place | None) -> Provider | None:
        """The provider a session stays with for now."""
        return place.provider if place is not None and self._monotonic() < place.until else None

    def moved(self, access_key_id: UUID, session_id: str | None, provider: Provider) -> None:
        """A session was served by `provider`, which is not where it belongs: it stays there for the dwell time."""
        if not session_id or not self._dwell:
            return
        known = self._places.get((access_key_id, session_id))
        if known is not None and known.provider == provider and self._monotonic() < known.until:
            return
        healing = known.healing if known else None
        self._keep(access_key_id, session_id, Place(provider, self._monotonic() + self._dwell, healing))

    def heal(self, access_key_id: UUID, session_id: str | None, provider: Provider, healing: str) -> None:
        """From now on the thinking of this session is healed on every turn."""
        if not session_id:
            return
        known = self._places.get((access_key_id, session_id))
        until = known.until if known else self._monotonic()
        self._keep(access_key_id, session_id, Place(known.provider if known else provider, until, healing))

    async def load(self, connection: AsyncConnection) -> None:
        """Take over what is in the store."""
        clock, now = self._now(), self._monotonic()
        for row in await routing.load_sessions(connection, clock):
            until = now + (row["until"] - clock).total_seconds()
            place = Place(cast(Provider, row["provider"]), until, row["healing"])
            self._places[row["access_key_id"], row["session_id"]] = place

    def _keep(self, access_key_id: UUID, session_id: str, place: Place) -> None:
        self._places[access_key_id, session_id] = place
        self._saves.start(self._save(access_key_id, session_id, place), name="session save")

    async def _save(self, access_key_id: UUID, session_id: str, place: Place) -> None:
        now = self._now()
        row = {
            "access_key_id": access_key_id,
            "session_id": session_id,
            "provider": place.provider,
            "until": now + timedelta(seconds=place.until - self._monotonic()),
            "healing": place.healing,
            "updated_at": now,
        }
        try:
            async with self._write() as connection:
                await routing.save_session(connection, row)
                await bump(connection, "routing", now)
        except OUTAGES as error:
            log.warning("session not saved", reason=type(error).__name__)
