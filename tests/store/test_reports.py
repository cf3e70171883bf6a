"""P5: whatever the range, the zone, the groups and the buckets, a report is the sum of the ledger, to the nano-dollar."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert

from daemon.core.periods import day_start
from daemon.core.ranges import Bucket, bucket_bounds, buckets, decompose, decompose_without_days
from daemon.core.record import Cost, UsageRecord
from daemon.services.usage import Usage
from daemon.services.usage_range import Ranges, Span
from daemon.store import ledger, reports, rollups, usage
from daemon.store.engine import Store
from daemon.store.reports import Only
from daemon.store.tables import access_keys, settings_epoch, token_usage, usage_aggregates, users
from tests.factories import usage_record

# Clocks that go forward and back, by an hour or half of one, at midnight or at two; offsets of quarters of hours.
ZONES = [
    ZoneInfo(name)
    for name in ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe",
                 "America/Havana", "Africa/Cairo", "Pacific/Apia")
]  # fmt: skip
EDGES = [
    datetime(2026, month, day, hour, tzinfo=UTC)
    for month, day, hour in (
        (3, 8, 7),
        (3, 29, 1),
        (4, 4, 15),
        (4, 24, 0),
        (10, 25, 1),
        (11, 1, 6),
        (1, 31, 23),
        (3, 1, 0),
    )
]
NOW = datetime(2026, 12, 1, tzinfo=UTC)
USERS = [UUID(int=number) for number in range(1, 5)]
instants = st.one_of(
    st.tuples(st.sampled_from(EDGES), st.integers(-3 * 86_400_000_000, 3 * 86_400_000_000)).map(
        lambda pair: pair[0] + timedelta(microseconds=pair[1])
    ),
    st.tuples(st.sampled_from(EDGES), st.integers(-200, 200)).map(
        lambda pair: pair[0] + timedelta(minutes=30 * pair[1])
    ),
)


def record_at(number: int, instant: datetime, chance: random.Random) -> UsageRecord:
    user = chance.randrange(4)
    return usage_record(
        request_id=f"req_{number}",
        user_id=USERS[user],
        access_key_id=UUID(int=10 + user),
        model_served=f"model-{chance.randrange(3)}",
        provider=chance.choice(("plan", "bedrock")),
        session_id=f"session-{chance.randrange(3)}",
        cost=Cost(chance.randrange(10**12), chance.randrange(10**9), 3, 5, 7),
        admitted_at=instant,
    )


async def people(store: Store) -> None:
    stamps = {"created_at": NOW, "updated_at": NOW}
    async with store.write() as connection:
        for number, user in enumerate(USERS):
            name = {"name": f"user-{number}", "team": ("red", "blue", None)[number % 3]}
            await connection.execute(insert(users).values(id=user, **name, **stamps))
            key = {
                "id": UUID(int=10 + number),
                "user_id": user,
                "name": "k",
                "key_hash": f"{number:064}",
                "key_prefix": "ak",
            }
            await connection.execute(insert(access_keys).values(**key, **stamps))


async def fill(store: Store, records: Sequence[UsageRecord], zone: ZoneInfo) -> None:
    async with store.write() as connection:
        for table in (token_usage, usage_aggregates, settings_epoch):
            await connection.execute(delete(table))
        await usage.append(connection, records, day_of=lambda instant: day_start(instant, zone))


def service(store: Store, zone: ZoneInfo) -> Usage:
    return Usage(store, Ranges(zone, lambda: NOW))


def cost(records: Sequence[UsageRecord]) -> int:
    return sum(record.cost.total_nano for record in records)


@given(zone=st.sampled_from(ZONES), since=instants, until=instants)
def test_pieces_are_the_range_without_gap_and_overlap(zone: ZoneInfo, since: datetime, until: datetime) -> None:
    since, until = min(since, until), max(since, until)
    for pieces in (decompose(since, until, zone), decompose_without_days(since, until, zone)):
        at = since
        for piece in pieces:
            assert piece.since == at < piece.until
            at = piece.until
            if piece.source == "day":
                assert day_start(piece.since, zone) == piece.since
                assert day_start(piece.until, zone) == piece.until
            elif piece.source == "hour":
                assert piece.since.minute == piece.until.minute == 0
            else:
                last = piece.until - timedelta(microseconds=1)
                assert day_start(piece.since, zone) == day_start(last, zone)
                assert piece.until - piece.since < timedelta(hours=1)
        assert at == until or (since == until and pieces == [])


@given(
    zone=st.sampled_from(ZONES),
    since=instants,
    until=instants,
    bucket=st.sampled_from(["hour", "day", "week", "month"]),
)
def test_buckets_have_no_gaps(zone: ZoneInfo, since: datetime, until: datetime, bucket: Bucket) -> None:
    since, until = min(since, until), max(since, until) + timedelta(seconds=1)
    found = list(buckets(since, until, bucket, zone))
    assert found[0][0] <= since < found[0][1]
    assert found[-1][0] < until <= found[-1][1]
    assert all(before[1] == after[0] for before, after in pairwise(found))


@pytest.fixture
async def peopled(store: Store) -> Store:
    await people(store)
    return store


# pytest-asyncio runs the test's coroutine for every example in the same loop: the store is filled anew for each
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_every_report_is_the_sum_of_the_ledger(peopled: Store, data: st.DataObject) -> None:
    zone = data.draw(st.sampled_from(ZONES))
    moments = data.draw(st.lists(instants, min_size=1, max_size=25))
    chance = random.Random(data.draw(st.integers(0, 99)))
    records = [record_at(number, instant, chance) for number, instant in enumerate(moments)]
    since, until = sorted(data.draw(st.lists(instants, min_size=2, max_size=2, unique=True)))
    await fill(peopled, records, zone)
    if data.draw(st.booleans()):  # as after a change of the zone: reports do without days
        async with peopled.write() as connection:
            await rollups.mark(connection, rollups.ZONE, "Antarctica/Troll", NOW)
    only = data.draw(st.sampled_from([Only(), Only(model="model-1"), Only(team="red"), Only(user_id=USERS[1])]))
    inside = [r for r in records if since <= r.admitted_at < until and matches(r, only)]
    span = Span(since.isoformat(), until.isoformat())
    groups = st.sampled_from([None, "user", "key", "team", "model", "provider", "day"])
    for group_by in data.draw(st.lists(groups, min_size=3, max_size=3, unique=True)):
        bucket = data.draw(st.sampled_from(["day", "week", "month"])) if group_by != "day" else None
        report = await service(peopled, zone).summary(span, only, group_by=group_by, bucket=bucket)  # type: ignore[arg-type]
        assert report.totals.cost_nano_usd == cost(inside)
        assert report.totals.requests == len(inside) == sum(b.requests for b in report.buckets)
        assert not report.rounded
        if group_by:
            assert sum(item.cost_nano_usd for item in report.items) == cost(inside)
        for part in report.buckets:
            here = [r for r in inside if part.start <= r.admitted_at < part.end]
            assert (part.requests, part.cost_nano_usd) == (len(here), cost(here))
            points = [point for series in report.series for point in series.points if point.start == part.start]
            assert not report.series or sum(point.cost_nano_usd for point in points) == cost(here)
        for item in report.items:
            if group_by != "day":
                here = [r for r in inside if group_of(r, group_by) == item.group]
                assert (item.requests, item.cost_nano_usd) == (len(here), cost(here))


def matches(record: UsageRecord, only: Only) -> bool:
    return (
        only.model in (None, record.model_served)
        and only.user_id in (None, record.user_id)
        and only.team in (None, group_of(record, "team"))
    )


def group_of(record: UsageRecord, group_by: str | None) -> str:
    match group_by:
        case "user":
            return str(record.user_id)
        case "key":
            return str(record.access_key_id)
        case "team":
            return ("red", "blue", "")[(record.user_id.int - 1) % 3]
        case "model":
            return record.model_served
        case _:
            return record.provider


@pytest.mark.parametrize(("bucket", "span"), [("minute", 3), ("hour", 60)])
async def test_hours_and_minutes_are_the_ledger_too(peopled: Store, bucket: Bucket, span: int) -> None:
    chance, zone = random.Random(3), ZoneInfo("Asia/Kolkata")
    start = datetime(2026, 3, 29, 0, 10, 5, tzinfo=UTC)
    moments = [start + timedelta(seconds=chance.uniform(0, span * 3600)) for _ in range(60)]
    records = [record_at(number, instant, chance) for number, instant in enumerate(moments)]
    await fill(peopled, records, zone)
    whole = Span(start.isoformat(), (start + timedelta(hours=span)).isoformat())
    report = await service(peopled, zone).summary(whole, Only(), group_by="user", bucket=bucket)
    assert report.totals.cost_nano_usd == cost(records)
    for part in report.buckets:
        assert bucket_bounds(part.start, bucket, zone) == (part.start, part.end)
        here = [r for r in records if part.start <= r.admitted_at < part.end]
        assert (part.requests, part.cost_nano_usd) == (len(here), cost(here))
    for point in [(series, point) for series in report.series for point in series.points]:
        here = [r for r in records if bucket_bounds(r.admitted_at, bucket, zone)[0] == point[1].start
                and str(r.user_id) == point[0].group]  # fmt: skip
        assert point[1].cost_nano_usd == cost(here)


@pytest.mark.parametrize("zone", [ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")], ids=str)
async def test_where_the_ledger_is_gone_a_report_is_of_whole_hours_or_days_and_says_so(
    peopled: Store, zone: ZoneInfo
) -> None:
    chance = random.Random(5)
    start = datetime(2026, 3, 20, 3, 20, tzinfo=UTC)
    records = [record_at(n, start + timedelta(hours=chance.uniform(0, 400)), chance) for n in range(200)]
    await fill(peopled, records, zone)
    await rollups.delete_before(peopled.write, datetime(2026, 4, 1, tzinfo=UTC), now=lambda: NOW)
    asked = Span("2026-03-21T05:25:00Z", "2026-03-29T07:05:00Z")
    for bucket in (None, "day", "hour"):
        report = await service(peopled, zone).summary(asked, Only(), bucket=bucket)  # type: ignore[arg-type]
        assert report.rounded
        inside = [record for record in records if report.since <= record.admitted_at < report.until]
        assert report.since <= datetime(2026, 3, 21, 5, 25, tzinfo=UTC)
        assert report.until >= datetime(2026, 3, 29, 7, 5, tzinfo=UTC)
        assert (report.totals.requests, report.totals.cost_nano_usd) == (len(inside), cost(inside))
    whole = await service(peopled, zone).summary(Span("2026-03-21", "2026-03-29"), Only(), group_by="model")
    assert not whole.rounded
    inside = [record for record in records if whole.since <= record.admitted_at < whole.until]
    assert whole.totals.cost_nano_usd == cost(inside)


async def test_sessions_are_summed_from_the_ledger(peopled: Store) -> None:
    chance = random.Random(6)
    records = [record_at(n, NOW - timedelta(hours=chance.uniform(1, 48)), chance) for n in range(50)]
    await fill(peopled, records, ZoneInfo("UTC"))
    report = await service(peopled, ZoneInfo("UTC")).summary(Span("2026-11-28"), Only(), group_by="session")
    assert report.totals.cost_nano_usd == cost(records) == sum(item.cost_nano_usd for item in report.items)
    one = [record for record in records if record.session_id == report.items[0].group]
    assert report.items[0].cost_nano_usd == cost(one)


async def test_a_report_sees_one_moment(store: Store) -> None:
    async with reports.reading(store) as connection:
        before = await ledger.records(connection, limit=9)
        async with store.write() as writer:
            await usage.append(writer, [usage_record()], day_of=lambda instant: day_start(instant, ZoneInfo("UTC")))
        assert await ledger.records(connection, limit=9) == before == []
    async with reports.reading(store) as connection:
        assert len(await ledger.records(connection, limit=9)) == 1


async def test_a_query_that_takes_too_long_is_ended(store: Store) -> None:
    slow: dict[str, Any] = {
        "postgresql": "SELECT pg_sleep(10)",
        "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
    }
    with pytest.raises(reports.TooSlow):
        async with reports.reading(store, seconds=0.2) as connection:
            await connection.exec_driver_sql(slow[store.dialect])
    async with reports.reading(store) as connection:
        assert await ledger.records(connection, limit=1) == []


async def test_an_export_waits_for_rows_whose_numbers_are_given_out_already(store: Store) -> None:
    if store.dialect == "sqlite":  # one writer: numbers are given out in the order of commits
        assert await ledger.settled_id(store) == 0
        return
    day_of = lambda instant: day_start(instant, ZoneInfo("UTC"))  # noqa: E731
    async with store.write() as slow:
        await usage.append(slow, [usage_record(request_id="req_slow")], day_of=day_of)
        async with store.write() as quick:  # a replica with another user: nothing it waits for
            await usage.append(quick, [usage_record(request_id="req_quick", user_id=UUID(int=7))], day_of=day_of)
        waiting = asyncio.ensure_future(ledger.settled_id(store))
        await asyncio.sleep(0.2)
        assert not waiting.done()
    assert await waiting == 2
