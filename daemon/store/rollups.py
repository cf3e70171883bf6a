"""Upkeep of ledger and rollups: making rollups anew, deleting old rows of the ledger, and two marks about both.

Making anew is exact beside running writers. On SQLite there is one writer. On PostgreSQL a step takes a lock on the
rollups that readers do not notice and that waits for appends: one that holds its rows back until afterwards adds them
to the new rollups, one that was before is seen.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Select, case, delete, func, insert, literal, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.periods import day_start, period_bounds
from daemon.core.ranges import HOUR, hour_start
from daemon.core.record import Ended
from daemon.store.engine import Store
from daemon.store.tables import settings_epoch, token_usage, usage_aggregates
from daemon.store.types import UtcDateTime
from daemon.store.usage import SUMS

Write = Callable[[], AbstractAsyncContextManager[AsyncConnection]]
ZONE, FLOOR = "usage_zone", "usage_floor"
STEP = timedelta(hours=3)  # of hours made anew in one transaction
ROWS = 1000  # deleted in one transaction
PAUSE = 0.05  # seconds between two, for everybody else
NOBODY = UUID(int=0)  # in rollups made from rows whose user or key is gone from the store
_COUNTERS = ("requests", "errors", "estimated_requests")
_COLUMNS = ("bucket", "bucket_start", "user_id", "access_key_id", "provider", "model", *_COUNTERS, *SUMS)
_LEDGER = token_usage.c
_ROLLUP = usage_aggregates.c


@dataclass(frozen=True, slots=True)
class Marks:
    """`zone`: whose days the rollups of days are, None while nobody said. `floor`: rows before it may be deleted."""

    zone: str | None = None
    floor: datetime | None = None


async def marks(connection: AsyncConnection) -> Marks:
    """What is known about the rollups."""
    query = select(settings_epoch.c.name, settings_epoch.c.detail).where(settings_epoch.c.name.in_((ZONE, FLOOR)))
    known = {row.name: row.detail for row in await connection.execute(query)}
    floor = known.get(FLOOR)
    return Marks(known.get(ZONE), datetime.fromisoformat(floor) if floor else None)


async def mark(connection: AsyncConnection, name: str, value: str, now: datetime) -> None:
    """Keep a mark; whoever counts epochs does not notice."""
    dialect = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    changed = {"detail": value, "updated_at": now}
    statement = dialect(settings_epoch).values(name=name, epoch=0, **changed)
    await connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changed))


def rebuild(url: str, zone: ZoneInfo, *, progress: Callable[[str], None] = lambda _: None) -> tuple[int, int]:
    """Make all rollups anew that the ledger has the rows of, in a loop of its own. Returns how many hours and days."""

    async def run() -> tuple[int, int]:
        store = Store.open(url)
        try:
            return await rebuild_all(store.write, zone=zone, now=datetime.now(UTC), progress=progress)
        finally:
            await store.aclose()

    return asyncio.run(run())


async def rebuild_all(
    write: Write, *, zone: ZoneInfo, now: datetime, progress: Callable[[str], None] = lambda _: None
) -> tuple[int, int]:
    """Hours from the ledger, days from hours. Days before the ledger's are made anew only for another zone."""
    async with write() as connection:
        known = await marks(connection)
        floor = await _first_whole_hour(connection, known.floor)
        first_day = await _first_whole_day(connection, floor, zone) if floor else None
    hours = await rebuild_hours(write, floor=floor, now=now, progress=lambda at: progress(f"hours until {at:%F %R}"))
    moved = known.zone not in (None, zone.key)
    days = await rebuild_days(
        write,
        zone=zone,
        floor=first_day,
        now=now,
        only=lambda day: moved or (first_day is not None and day >= first_day),
        progress=lambda day: progress(f"day {day.astimezone(zone):%F}"),
    )
    async with write() as connection:
        await mark(connection, ZONE, zone.key, now)
    return hours, days


async def _first_whole_hour(connection: AsyncConnection, floor: datetime | None) -> datetime | None:
    """Where the hours begin that the ledger has all rows of, None when it has none.

    Without a floor somebody may have deleted rows by hand: then the first hour may be incomplete.
    """
    first = await connection.scalar(select(func.min(_LEDGER.admitted_at)))
    if first is None:
        return None
    if floor is not None and floor > first:
        return _hour_ceiling(floor)
    whole = hour_start(first)
    return whole + HOUR if await _anything_before(connection, whole) else whole


async def _first_whole_day(connection: AsyncConnection, floor: datetime, zone: ZoneInfo) -> datetime:
    """Where the days begin that can be made anew: from hours, or where midnight is not on one, from the ledger."""
    start = day_start(floor, zone)
    return floor if start != hour_start(start) and await _anything_before(connection, floor) else start


async def _anything_before(connection: AsyncConnection, instant: datetime) -> bool:
    oldest = await _ends(connection, "hour")
    return oldest is not None and oldest[0] < instant


async def _ends(connection: AsyncConnection, bucket: str) -> tuple[datetime, datetime] | None:
    """Where the first and the last rollup of a kind begin: one look into the index each."""
    of_kind = select(func.min(_ROLLUP.bucket_start), func.max(_ROLLUP.bucket_start)).where(_ROLLUP.bucket == bucket)
    first, last = (await connection.execute(of_kind)).one()
    return None if first is None else (first, last)


def _hour_ceiling(instant: datetime) -> datetime:
    return instant if instant == hour_start(instant) else hour_start(instant) + HOUR


async def rebuild_hours(
    write: Write, *, floor: datetime | None, now: datetime, progress: Callable[[datetime], None] = lambda _: None
) -> int:
    """Make the rollups of hours from `floor` on anew from the ledger. Returns how many hours."""
    if floor is None:
        return 0
    async with write() as connection:
        last = await connection.scalar(select(func.max(_LEDGER.admitted_at)))
    start, end = floor, hour_start(max(last or now, now)) + HOUR
    at = start
    while at < end:
        until = min(at + STEP, end)
        async with write() as connection:
            await _lock(connection)
            await _forget(connection, "hour", at, until)
            hours = _from_ledger(connection, at, until)
            await connection.execute(insert(usage_aggregates).from_select(_COLUMNS, hours))
        progress(until)
        at = until
    return max(timedelta(0), end - start) // HOUR


async def rebuild_days(
    write: Write,
    *,
    zone: ZoneInfo,
    floor: datetime | None,
    now: datetime,
    only: Callable[[datetime], bool] = lambda _: True,
    progress: Callable[[datetime], None] = lambda _: None,
) -> int:
    """Make the rollups of days anew from those of hours, the newest day first. Returns how many days.

    Where a midnight is not on a whole hour, days come from the ledger; before `floor`, where that is gone, an hour
    counts for the day in which it begins. `only` picks days.
    """
    async with write() as connection:
        ends = [await _ends(connection, bucket) for bucket in ("hour", "day")]
    if not any(ends):
        return 0
    first, last = min(pair[0] for pair in ends if pair), max(pair[1] for pair in ends if pair)
    start, end = period_bounds(max(last, now), "daily", zone)
    done = 0
    while end > first:
        if only(start):
            async with write() as connection:
                await _lock(connection)
                await _forget(connection, "day", start, end)
                await _remake_day(connection, start, end, floor)
            done += 1
            progress(start)
        start, end = day_start(start - timedelta(microseconds=1), zone), start
    return done


async def strays(connection: AsyncConnection, *, zone: ZoneInfo, since: datetime) -> set[datetime]:
    """Days of `zone` in which rollups begin that belong to another zone's days: a replica has other settings."""
    query = select(_ROLLUP.bucket_start).distinct().where(_ROLLUP.bucket == "day", _ROLLUP.bucket_start >= since)
    starts = (await connection.scalars(query)).all()
    return {day_start(start, zone) for start in starts if day_start(start, zone) != start}


async def delete_before(
    write: Write,
    cutoff: datetime,
    *,
    now: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> int:
    """Delete the rows of the ledger before `cutoff` in small steps; rollups stay. Returns how many.

    The floor is raised first, so that no report counts on rows that are about to go.
    """
    async with write() as connection:
        known = (await marks(connection)).floor
        if known is None or known < cutoff:
            await mark(connection, FLOOR, cutoff.isoformat(), now())
    old = select(_LEDGER.id).where(_LEDGER.admitted_at < cutoff).order_by(_LEDGER.admitted_at).limit(ROWS)
    deleted = 0
    while True:
        async with write() as connection:
            done = (await connection.execute(delete(token_usage).where(_LEDGER.id.in_(old)))).rowcount
        deleted += done
        if done < ROWS:
            return deleted
        await sleep(PAUSE)


async def _lock(connection: AsyncConnection) -> None:
    if connection.dialect.name == "postgresql":
        await connection.execute(text("LOCK TABLE usage_aggregates IN SHARE ROW EXCLUSIVE MODE"))


async def _forget(connection: AsyncConnection, bucket: str, since: datetime, until: datetime) -> None:
    within = (_ROLLUP.bucket == bucket, _ROLLUP.bucket_start >= since, _ROLLUP.bucket_start < until)
    await connection.execute(delete(usage_aggregates).where(*within))


async def _remake_day(connection: AsyncConnection, start: datetime, end: datetime, floor: datetime | None) -> None:
    on_the_hour = hour_start(start) == start and hour_start(end) == end
    if on_the_hour or (floor is not None and start < floor):
        query = _from_hours(start, end)
    else:
        query = _from_ledger(connection, start, end, day=start)
    await connection.execute(insert(usage_aggregates).from_select(_COLUMNS, query))


def _from_hours(start: datetime, end: datetime) -> Select[Any]:
    group = (_ROLLUP.user_id, _ROLLUP.access_key_id, _ROLLUP.provider, _ROLLUP.model)
    return (
        select(
            literal("day"),
            literal(start, UtcDateTime),
            *group,
            *(func.sum(_ROLLUP[name]) for name in (*_COUNTERS, *SUMS)),
        )
        .where(_ROLLUP.bucket == "hour", _ROLLUP.bucket_start >= start, _ROLLUP.bucket_start < end)
        .group_by(*group)
    )


def _from_ledger(
    connection: AsyncConnection, since: datetime, until: datetime, *, day: datetime | None = None
) -> Select[Any]:
    """Rollups of the hours in [since, until), or of the one day that it is."""
    start: ColumnElement[Any] = literal(day, UtcDateTime) if day else _hour_of_row(connection)
    group = (
        func.coalesce(_LEDGER.user_id, literal(NOBODY, _LEDGER.user_id.type)),
        func.coalesce(_LEDGER.access_key_id, literal(NOBODY, _LEDGER.access_key_id.type)),
        _LEDGER.provider,
        _LEDGER.model_served,
    )
    inner = select(
        start.label("start"),
        group[0].label("user_id"),
        group[1].label("access_key_id"),
        _LEDGER.provider,
        _LEDGER.model_served,
        case((_LEDGER.ended == Ended.ERROR.value, 1), else_=0).label("errors"),
        case((_LEDGER.estimated, 1), else_=0).label("estimated_requests"),
        *(_LEDGER[name] for name in SUMS),
    ).where(_LEDGER.admitted_at >= since, _LEDGER.admitted_at < until)
    rows = inner.subquery()
    keys = (rows.c.start, rows.c.user_id, rows.c.access_key_id, rows.c.provider, rows.c.model_served)
    numbers = (func.sum(rows.c[name]) for name in ("errors", "estimated_requests", *SUMS))
    return select(literal("day" if day else "hour"), *keys, func.count(), *numbers).group_by(*keys)


def _hour_of_row(connection: AsyncConnection) -> ColumnElement[Any]:
    if connection.dialect.name == "postgresql":
        return func.date_trunc("hour", _LEDGER.admitted_at, "UTC")
    return func.substr(_LEDGER.admitted_at, 1, 13) + ":00:00.000000"
