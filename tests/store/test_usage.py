"""The ledger and its rollups, on both stores."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.exc import IntegrityError

from daemon.core.periods import day_start
from daemon.core.record import Attempt, Cost, Ended, PriceSnapshot
from daemon.store import ledger, migrate, usage
from daemon.store.engine import Store
from daemon.store.filters import live
from daemon.store.tables import access_keys, token_usage, users
from tests.factories import usage_record
from tests.support.usage import days, rollup

SEOUL = ZoneInfo("Asia/Seoul")
NOON = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


async def append(store: Store, records: Sequence[usage.UsageRecord]) -> int:
    async with store.write() as connection:
        return await usage.append(connection, records, day_of=lambda instant: day_start(instant, SEOUL))


async def create_key(store: Store, *, user_name: str = "alice", key_name: str = "laptop") -> tuple[UUID, UUID]:
    user, key = uuid4(), uuid4()
    stamps = {"created_at": NOON, "updated_at": NOON}
    async with store.write() as connection:
        await connection.execute(insert(users).values(id=user, name=user_name, **stamps))
        await connection.execute(
            insert(access_keys).values(
                id=key, user_id=user, name=key_name, key_hash=key.hex * 2, key_prefix="ak_abcd", **stamps
            )
        )
    return user, key


async def test_a_record_goes_in_once_whatever_is_replayed(store: Store) -> None:
    records = [usage_record(request_id=f"req_{n}") for n in range(5)]
    assert await append(store, records) == 5
    assert await append(store, [*records, *records, usage_record(request_id="req_new")]) == 1
    async with store.read() as connection:
        totals = await rollup(connection)
        assert totals["requests"] == 6
        assert len(await ledger.records(connection, limit=100)) == 6


async def test_the_rollups_are_the_sum_of_the_ledger(store: Store) -> None:
    records = [
        usage_record(request_id=f"req_{n}", admitted_at=NOON + timedelta(hours=n * 5), model_served=f"model-{n % 3}")
        for n in range(40)
    ]
    await append(store, records[:17])
    await append(store, records[17:])
    async with store.read() as connection:
        for bucket in ("hour", "day"):
            for name in usage.SUMS:
                rows = await connection.scalar(select(func.sum(token_usage.c[name])))
                sums = await rollup(connection, bucket)
                assert int(rows) == sums[name] == sum(getattr_path(record, name) for record in records)


def getattr_path(record: usage.UsageRecord, name: str) -> int:
    return dict(zip(usage._ADDED, usage._amounts(record), strict=True))[name]


async def test_a_day_begins_in_the_zone_of_the_budget(store: Store) -> None:
    before, after = (datetime(2026, 3, 1, hour, tzinfo=UTC) for hour in (14, 15))  # midnight in Seoul is 15:00 UTC
    await append(store, [usage_record(request_id="req_1", admitted_at=before)])
    await append(store, [usage_record(request_id="req_2", admitted_at=after)])
    async with store.read() as connection:
        found = await days(connection)
    assert found == [
        (datetime(2026, 2, 28, 15, tzinfo=UTC), 1),
        (datetime(2026, 3, 1, 15, tzinfo=UTC), 1),
    ]


async def test_money_is_exact(store: Store) -> None:
    huge = usage_record(request_id="req_1")
    huge = replace(huge, cost=replace(huge.cost, input_nano=123_456_789_012_345, output_nano=1))
    await append(store, [huge, usage_record(request_id="req_2")])
    async with store.read() as connection:
        row = (await ledger.records(connection, limit=1, request_id="req_1"))[0]
        assert row["input_cost_nano_usd"] == 123_456_789_012_345
        small = (await ledger.records(connection, limit=1, request_id="req_2"))[0]
        assert small["input_cost_usd"] == Decimal(small["input_cost_nano_usd"]) / 10**9


async def test_records_come_newest_first_and_page_by_id(store: Store) -> None:
    await append(store, [usage_record(request_id=f"req_{n}") for n in range(5)])
    async with store.read() as connection:
        first = await ledger.records(connection, limit=2)
        second = await ledger.records(connection, limit=2, before_id=first[-1]["id"])
    assert [row["id"] for row in [*first, *second]] == [5, 4, 3, 2]


async def test_a_batch_keeps_its_order_and_the_first_of_a_duplicate(store: Store) -> None:
    batch = [usage_record(request_id=f"req_{n}") for n in (3, 1, 2)]
    await append(store, [*batch, usage_record(request_id="req_1", status=500)])
    async with store.read() as connection:
        rows = await ledger.records(connection, limit=9)
    assert [(row["request_id"], row["status"]) for row in rows[::-1]] == [
        ("req_3", 200),
        ("req_1", 200),
        ("req_2", 200),
    ]


async def test_errors_can_be_listed_alone(store: Store) -> None:
    await append(
        store, [usage_record(request_id="req_1"), usage_record(request_id="req_2", ended=Ended.ERROR, status=529)]
    )
    async with store.read() as connection:
        assert [row["request_id"] for row in await ledger.records(connection, limit=9, errors_only=True)] == ["req_2"]
        totals = await rollup(connection)
        assert (totals["requests"], totals["errors"]) == (2, 1)


async def test_a_key_remembers_when_it_was_last_used(store: Store) -> None:
    user, key = await create_key(store)
    record = usage_record(request_id="req_1", user_id=user, access_key_id=key)
    await append(store, [record])
    async with store.read() as connection:
        assert await connection.scalar(select(access_keys.c.last_used_at)) == record.finished_at


async def test_a_replayed_record_does_not_turn_the_last_use_of_a_key_back(store: Store) -> None:
    user, key = await create_key(store)
    for request_id, finished_at in (("req_new", NOON + timedelta(days=1)), ("req_old", NOON)):
        record = usage_record(request_id=request_id, user_id=user, access_key_id=key, finished_at=finished_at)
        await append(store, [record])
    async with store.read() as connection:
        assert await connection.scalar(select(access_keys.c.last_used_at)) == NOON + timedelta(days=1)


async def test_deleting_a_user_takes_its_keys_and_keeps_its_usage(store: Store) -> None:
    user, key = await create_key(store)
    await append(store, [usage_record(request_id="req_1", user_id=user, access_key_id=key)])
    async with store.write() as connection:
        await connection.execute(delete(users).where(users.c.id == user))
    async with store.read() as connection:
        assert (await connection.execute(select(access_keys))).all() == []
        row = (await ledger.records(connection, limit=1))[0]
        assert (row["user_id"], row["access_key_id"]) == (None, None)


async def test_a_live_name_is_unique_and_a_deleted_one_is_free(store: Store) -> None:
    user, _ = await create_key(store)
    with pytest.raises(IntegrityError):
        await create_key(store)
    async with store.write() as connection:
        await connection.execute(users.update().where(users.c.id == user).values(deleted_at=NOON))
    again, _ = await create_key(store)
    async with store.read() as connection:
        assert (await connection.scalars(select(users.c.id).where(live(users)))).all() == [again]


async def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError):
        async with store.write() as connection:
            await usage.append(connection, [usage_record()], day_of=lambda instant: day_start(instant, SEOUL))
            raise RuntimeError
    async with store.read() as connection:
        assert await ledger.records(connection, limit=9) == []


async def test_operators_have_two_views(store: Store) -> None:
    await append(store, [usage_record(request_id="req_1")])
    async with store.read() as connection:
        row = (await connection.execute(text("SELECT * FROM v_ledger"))).mappings().one()
        assert row["request_id"] == "req_1"
        assert (await connection.execute(text("SELECT * FROM v_budget"))).all() == []


def test_the_schema_is_what_the_code_says_and_goes_down_again(database_url: str) -> None:
    assert migrate.current(database_url) == migrate.head()
    assert not migrate.pending(database_url)
    assert migrate.drift(database_url) == []
    migrate.downgrade(database_url, "base")
    assert migrate.current(database_url) is None
    migrate.upgrade(database_url)
    assert migrate.drift(database_url) == []


async def test_a_row_is_written_as_sqlalchemy_would_have_written_it(store: Store) -> None:
    price = PriceSnapshot(
        "sheet",
        "plan",
        "global",
        "claude-opus-5-5",
        "standard",
        date(2026, 1, 1),
        *map(Decimal, ["4", "20", "5", "8", "0.2"]),
    )
    attempts = (Attempt("plan", "messages", 529, "overloaded", 3), Attempt("bedrock", "invoke", 200, None, 5, "us.x"))
    record = usage_record(
        price=price, attempts=attempts, session_id='a "quoted" ü 你', cost=Cost(1_499, 1_500, 0, 7, 9)
    )
    await append(store, [record])
    async with store.write() as connection:
        row = dict((await connection.execute(select(token_usage))).mappings().one())
        twin = {name: value for name, value in row.items() if name != "id"} | {"request_id": "req_twin"}
        await connection.execute(insert(token_usage).values(twin))
        written, through = (await connection.exec_driver_sql("SELECT * FROM token_usage ORDER BY id")).mappings().all()
    differing = {name for name in written if written[name] != through[name]}
    assert differing - {"attempts"} == {"id", "request_id"}
    assert row["attempts"] == [
        {
            "provider": "plan",
            "route": "messages",
            "status": 529,
            "failure": "overloaded",
            "duration_ms": 3,
            "model": None,
        },
        {"provider": "bedrock", "route": "invoke", "status": 200, "failure": None, "duration_ms": 5, "model": "us.x"},
    ]
    assert row["estimated_cost_usd"] == Decimal("0.000003")
