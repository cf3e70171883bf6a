"""Upkeep in the background: rollups of days in the zone that is configured, old rows of the ledger, old answers."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import structlog

from daemon.core.periods import Period, day_start, period_bounds
from daemon.services.idempotency import forget_old
from daemon.store import rollups
from daemon.store.engine import OUTAGES, Store

log = structlog.get_logger()

EVERY_SECONDS = 3600.0
AFTER_OUTAGE_SECONDS = 30.0
_BUDGET_PERIODS: tuple[Period, ...] = ("weekly", "monthly")
_LOOK_BACK = timedelta(days=3)


class Upkeep:
    """Runs at the start and every hour; any number of replicas may."""

    def __init__(
        self,
        store: Store,
        *,
        zone: ZoneInfo,
        retention_days: int | None,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._zone = zone
        self._retention_days = retention_days
        self._now = now
        self._sleep = sleep

    async def run(self) -> None:
        """For ever; an outage of the store is waited for."""
        while True:
            try:
                await self.once()
            except OUTAGES as error:
                log.warning("usage upkeep waits for the store", reason=type(error).__name__)
                await self._sleep(AFTER_OUTAGE_SECONDS)
            else:
                await self._sleep(EVERY_SECONDS)

    async def once(self) -> None:
        """Days first: until they are right, reports add up hours."""
        await self._days()
        await self._retention()
        await forget_old(self._store, self._now())

    async def _days(self) -> None:
        """Make rollups of days anew when the zone has changed, or when a replica with another zone has written some."""
        async with self._store.read() as connection:
            marks = await rollups.marks(connection)
            strays = await rollups.strays(connection, zone=self._zone, since=self._now() - _LOOK_BACK)
        changed = marks.zone is not None and marks.zone != self._zone.key
        if changed:
            log.info("days begin in another zone: their rollups are made anew", was=marks.zone, zone=self._zone.key)
        elif strays:
            log.warning("rollups of another zone's days found: do all replicas have the same PROXY_BUDGET_TIMEZONE?")
        if changed or strays:
            days = await rollups.rebuild_days(
                self._store.write,
                zone=self._zone,
                floor=marks.floor,
                now=self._now(),
                only=lambda day: changed or day in strays,
            )
            log.info("rollups of days made anew", days=days)
        if marks.zone != self._zone.key:
            async with self._store.write() as connection:
                await rollups.mark(connection, rollups.ZONE, self._zone.key, self._now())

    async def _retention(self) -> None:
        """Rows of the running week and month stay: a budget's counter may have to be made from them."""
        if self._retention_days is None:
            return
        now = self._now()
        periods = [period_bounds(now, kind, self._zone)[0] for kind in _BUDGET_PERIODS]
        cutoff = min(day_start(now - timedelta(days=self._retention_days), self._zone), *periods)
        deleted = await rollups.delete_before(self._store.write, cutoff, now=self._now, sleep=self._sleep)
        if deleted:
            log.info("old rows of the ledger deleted", rows=deleted, before=cutoff.isoformat())
