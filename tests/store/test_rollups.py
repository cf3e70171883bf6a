"""Rollups made anew, the zone of days, and the retention of ledger rows, on both stores."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, func, select, update

from daemon.core.periods import day_start
from daemon.core.record import Cost, Ended, UsageRecord
from daemon.services.upkeep import Upkeep
from daemon.store import rollups, usage
from daemon.store.engine import Store
from daemon.store.reports import FIGURES
from daemon.store.tables import token_usage, usage_aggregates
from tests.factories import usage_record
from tests.support.usage import days, rollup, rows

START = datetime(2026, 3, 20, 3, 20, tzinfo=UTC)
BERLIN, KOLKATA = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")
NOW = datetime(2026, 4, 20, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _large_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "STEP", timedelta(days=2))  # most of these hours are empty


def spread(
    count: int, *, seed: int = 1, prefix: str = "req", over: timedelta = timedelta(days=20)
) -> list[UsageRecord]:
    """Records of four users and three models, over three weeks with a change of clocks in them."""
    chance = random.Random(seed)
    return [
        usage_record(
            request_id=f"{prefix}_{number}",
            user_id=UUID(int=chance.randrange(1, 5)),
            access_key_id=UUID(int=chance.randrange(10, 15)),
            model_served=f"model-{chance.randrange(3)}",
            provider=chance.choice(("plan", "bedrock")),
            ended=chance.choice((Ended.FINISHED, Ended.ERROR)),
            estimated=chance.random() < 0.2,
            cost=Cost(chance.randrange(10**9), chance.randrange(10**9), 3, 5, 7),
            admitted_at=START + timedelta(microseconds=chance.randrange(over // timedelta(microseconds=1))),
        )
        for number in range(count)
    ]


async def append(store: Store, records: Sequence[UsageRecord], zone: ZoneInfo) -> None:
    async with store.write() as connection:
        await usage.append(connection, records, day_of=lambda instant: day_start(instant, zone))


async def all_rollups(store: Store, bucket: str | None = None) -> dict[tuple[Any, ...], tuple[int, ...]]:
    async with store.read() as connection:
        found = await connection.execute(select(usage_aggregates))
    keys = ("bucket", "bucket_start", "provider", "model")
    result: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for row in found.mappings():
        if bucket in (None, row["bucket"]):
            key = tuple(row[name] for name in keys)
            numbers = tuple(row[name] for name in FIGURES)
            result[key] = tuple(a + b for a, b in zip(result.get(key, (0,) * len(numbers)), numbers, strict=True))
    return result


@pytest.mark.parametrize("zone", [ZoneInfo("UTC"), BERLIN, KOLKATA], ids=str)
async def test_rollups_made_anew_are_the_ones_that_the_writer_made(store: Store, zone: ZoneInfo) -> None:
    await append(store, spread(150), zone)
    before = await all_rollups(store)
    async with store.write() as connection:
        await connection.execute(update(usage_aggregates).values(requests=7, cost_nano_usd=1))
        await connection.execute(delete(usage_aggregates).where(usage_aggregates.c.model == "model-1"))
    assert await all_rollups(store) != before
    hours, made = await rollups.rebuild_all(store.write, zone=zone, now=NOW)
    assert await all_rollups(store) == before
    assert (hours > 20 * 24, made >= 20) == (True, True)


async def test_appends_that_run_beside_a_rebuild_are_counted_once(store: Store) -> None:
    await append(store, spread(60), BERLIN)
    late = spread(200, seed=2, prefix="late")

    async def write() -> None:
        for number in range(0, len(late), 5):
            await append(store, late[number : number + 5], BERLIN)

    await asyncio.gather(
        write(), *(rollups.rebuild_all(store.write, zone=BERLIN, now=NOW) for _ in range(2)), return_exceptions=False
    )
    async with store.read() as connection:
        ledger = sum(row["cost_nano_usd"] for row in await rows(connection))
        for bucket in ("hour", "day"):
            sums = await rollup(connection, bucket)
            assert (sums["requests"], sums["cost_nano_usd"]) == (260, ledger)


async def test_what_is_older_than_the_ledger_stays_as_it_is(store: Store) -> None:
    await append(store, spread(150), BERLIN)
    before = await all_rollups(store)
    async with store.write() as connection:
        gone = START + timedelta(days=9, hours=5)
        await connection.execute(delete(token_usage).where(token_usage.c.admitted_at < gone))
    await rollups.rebuild_all(store.write, zone=BERLIN, now=NOW)
    assert await all_rollups(store) == before


async def test_old_rows_of_the_ledger_are_deleted_in_steps_and_rollups_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "ROWS", 10)
    await append(store, spread(150), BERLIN)
    before = await all_rollups(store)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    cutoff = datetime(2026, 4, 1, tzinfo=UTC)
    async with store.read() as connection:
        old = sum(row["admitted_at"] < cutoff for row in await rows(connection))
    deleted = await rollups.delete_before(store.write, cutoff, now=lambda: NOW, sleep=sleep)
    assert (deleted, len(pauses)) == (old, old // 10)
    async with store.read() as connection:
        assert all(row["admitted_at"] >= cutoff for row in await rows(connection))
        assert (await rollups.marks(connection)).floor == cutoff
    assert await all_rollups(store) == before
    await rollups.rebuild_all(store.write, zone=BERLIN, now=NOW)
    assert await all_rollups(store) == before


async def test_retention_keeps_the_running_month_for_budgets(store: Store) -> None:
    await append(store, spread(150), BERLIN)
    await Upkeep(store, zone=BERLIN, retention_days=1, now=lambda: datetime(2026, 4, 9, tzinfo=UTC)).once()
    async with store.read() as connection:
        oldest = await connection.scalar(select(func.min(token_usage.c.admitted_at)))
        assert (await rollups.marks(connection)).floor == datetime(2026, 3, 31, 22, tzinfo=UTC)
    assert datetime(2026, 3, 31, 22, tzinfo=UTC) <= oldest < datetime(2026, 4, 3, tzinfo=UTC)


@pytest.mark.parametrize("after", [ZoneInfo("America/New_York"), KOLKATA], ids=str)
async def test_a_changed_zone_moves_the_days_of_all_time(store: Store, after: ZoneInfo) -> None:
    records = spread(150)
    await append(store, records, BERLIN)
    await Upkeep(store, zone=BERLIN, retention_days=None, now=lambda: NOW).once()
    await Upkeep(store, zone=after, retention_days=None, now=lambda: NOW).once()
    expected: dict[datetime, int] = {}
    for record in records:
        day = day_start(record.admitted_at, after)
        expected[day] = expected.get(day, 0) + 1
    async with store.read() as connection:
        assert await days(connection) == sorted(expected.items())
        assert (await rollups.marks(connection)).zone == after.key
        assert (await rollup(connection, "day")) == (await rollup(connection, "hour"))


async def test_days_that_a_replica_with_another_zone_wrote_are_mended(store: Store) -> None:
    upkeep = Upkeep(store, zone=BERLIN, retention_days=None, now=lambda: START + timedelta(days=20))
    await append(store, spread(50), BERLIN)
    await upkeep.once()
    late = spread(20, prefix="late", over=timedelta(hours=40))
    await append(store, _moved(late, timedelta(days=18)), KOLKATA)
    await upkeep.once()
    async with store.read() as connection:
        assert (await rollup(connection, "day")) == (await rollup(connection, "hour"))
        assert all(day_start(start, BERLIN) == start for start, _ in await days(connection))


def _moved(records: Sequence[UsageRecord], by: timedelta) -> list[UsageRecord]:
    return [replace(record, admitted_at=record.admitted_at + by) for record in records]
