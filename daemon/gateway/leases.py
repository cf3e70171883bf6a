"""Requests outlive the replica that serves them: leases say who is alive, orphans are settled by whoever finds them."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from daemon.core.record import decode
from daemon.gateway.circuits import Write
from daemon.gateway.spend import LEASE, Budgets
from daemon.store import budgets, usage
from daemon.store.engine import OUTAGES

log = structlog.get_logger()

BEAT_SECONDS = 10.0
_ALIVE = timedelta(seconds=60)
# Leases run out while nobody can renew them, and this replica's own journal may know better: nothing is taken over
# until everyone has had the time to say that they are alive.
_GRACE = timedelta(seconds=25)
_BATCH = 100


class Leases:
    """Keeps this replica's requests alive in the store, and settles those of replicas that are gone."""

    def __init__(
        self,
        write: Write,
        spend: Budgets,
        *,
        owner: str,
        now: Callable[[], datetime],
        day_of: Callable[[datetime], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._write = write
        self._spend = spend
        self._owner = owner
        self._now = now
        self._day_of = day_of
        self._sleep = sleep

    async def run(self) -> None:
        """Beat until cancelled; while the store is away nobody can take anything over either."""
        reachable_since: datetime | None = None
        while True:
            try:
                await self.beat()
                reachable_since = reachable_since or self._now()
                while self._now() - reachable_since >= _GRACE and await self.reap() == _BATCH:
                    pass
            except OUTAGES as error:
                reachable_since = None
                log.warning("leases not renewed", reason=type(error).__name__)
            await self._sleep(BEAT_SECONDS)

    async def beat(self) -> None:
        """Say that this replica is alive, and count those that are."""
        now = self._now()
        async with self._write() as connection:
            await budgets.renew_leases(connection, owner=self._owner, now=now, until=now + LEASE)
            self._spend.replicas = max(1, await budgets.count_replicas(connection, now - _ALIVE))

    async def reap(self) -> int:
        """Put requests of dead replicas on the books, as far as they are known. Returns how many."""
        async with self._write() as connection:
            rows = await budgets.expired_intents(connection, self._now(), limit=_BATCH)
            records = [decode(row["record"]) for row in rows]
            if records:
                await usage.append(connection, records, day_of=self._day_of, counts=self._spend.counts)
                log.warning("orphaned requests settled", records=len(records))
        return len(records)
