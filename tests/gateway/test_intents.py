"""What is noted of a request before its record exists: superseded, replaced, or its record when no other comes."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from daemon.core.periods import day_start
from daemon.core.record import Ended, UsageRecord, encode
from daemon.core.tokens import TokenCounts
from daemon.gateway import ledger as module
from daemon.gateway.accounts import Tried
from daemon.gateway.journal import MAGIC, Journal, read_segment
from daemon.gateway.leases import Leases
from daemon.gateway.ledger import Ledger, LedgerUnavailable
from daemon.gateway.spend import Budgets
from daemon.protocol.anthropic.meter import UsageMeter
from daemon.simulator.script import Step
from daemon.store.engine import Store
from daemon.store.tables import budget_counters, intents
from tests.factories import usage_record
from tests.gateway.test_budgets import BODY, DOLLAR, TRIED, counter, exchange, replica, user_with
from tests.support import usage
from tests.support.daemon import running_daemon
from tests.support.simulator import running_simulator

ZONE = ZoneInfo("UTC")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.mkdir()
    return path


def ledger_of(store: Any, journal: Journal, *, unjournaled_seconds: float = 2.0) -> Ledger:
    return Ledger(store, journal, day_of=lambda at: day_start(at, ZONE), unjournaled_seconds=unjournaled_seconds)


def intent(request_id: str, *, output: int = 0) -> UsageRecord:
    record = usage_record(request_id=request_id, ended=Ended.ORPHANED, estimated=True)
    return replace(record, tokens=TokenCounts(input=5, output=output))


async def rows(store: Store) -> dict[str, dict[str, Any]]:
    async with store.read() as connection:
        return {row["request_id"]: row for row in await usage.rows(connection)}


async def restarted(store: Store, directory: Path) -> Ledger:
    """A ledger on what a dead one left, once all of it is in the store."""
    ledger = ledger_of(store, Journal(directory))
    await ledger.start()
    await ledger.flush()
    return ledger


def segments(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.wal"))


class AwayStore:
    """A store that is away while `away` is set."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.away = True
        self.read = store.read

    def write(self) -> Any:
        if self.away:
            raise OperationalError("INSERT", {}, Exception("connection refused"))
        return self._store.write()


class FullDisk:
    """A disk that takes nothing while it is full."""

    def __init__(self, *, full: bool = True) -> None:
        self.full = full

    def write(self, descriptor: int, data: bytes) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return os.write(descriptor, data)


async def test_a_request_without_record_is_on_the_books_as_far_as_its_last_checkpoint(
    store: Store, directory: Path
) -> None:
    dead = ledger_of(store, Journal(directory))
    await dead.start()
    for output in (0, 700, 2_900):
        dead.intend(intent("req_1", output=output))
    dead.intend(intent("req_2"))
    dead.intend(intent("req_3"))
    await dead.settle(usage_record(request_id="req_3"))
    # it dies here
    await (await restarted(store, directory)).aclose()
    found = await rows(store)
    assert {name: (row["ended"], row["estimated"], row["output_tokens"]) for name, row in found.items()} == {
        "req_1": ("orphaned", True, 2_900),
        "req_2": ("orphaned", True, 0),
        "req_3": ("finished", False, 20),
    }
    assert segments(directory) == []


async def test_an_intent_keeps_its_segment_until_its_record_is_in_the_store(
    store: Store, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.gateway.journal.SEGMENT_LIMIT", 1)
    ledger = ledger_of(store, Journal(directory))
    await ledger.start()
    ledger.intend(intent("req_1"))
    ledger.intend(intent("req_2"))
    await ledger.settle(usage_record(request_id="req_2"))
    await ledger.flush()
    assert segments(directory) == ["000000000001.wal"]
    ledger.intend(intent("req_1", output=100))
    assert segments(directory) == ["000000000004.wal"]
    await ledger.settle(usage_record(request_id="req_1"))
    await ledger.aclose()
    assert segments(directory) == []


async def test_a_superseded_intent_left_on_disk_changes_nothing(store: Store, directory: Path) -> None:
    """Its segment was still needed for something else when the process died."""
    ledger = ledger_of(store, Journal(directory))
    await ledger.start()
    ledger.intend(intent("req_1"))
    ledger.intend(intent("req_2"))
    await ledger.settle(usage_record(request_id="req_1"))
    await ledger.flush()
    kept = (directory / "000000000001.wal").read_bytes()
    await ledger.aclose()
    before = (await rows(store))["req_1"]
    (directory / "000000000001.wal").write_bytes(kept[: kept.rindex(MAGIC)])  # without the record of req_1
    await (await restarted(store, directory)).aclose()
    found = await rows(store)
    assert found["req_1"] == before
    assert found["req_2"]["ended"] == "orphaned"


async def test_a_journal_that_takes_nothing_refuses_intents_and_does_again_when_it_can(
    store: Store, directory: Path
) -> None:
    disk = FullDisk()
    ledger = ledger_of(store, Journal(directory, write=disk.write))
    await ledger.start()
    with pytest.raises(LedgerUnavailable):
        ledger.intend(intent("req_1"))
    disk.full = False
    ledger.intend(intent("req_2"))
    await ledger.aclose()
    await (await restarted(store, directory)).aclose()
    assert list(await rows(store)) == ["req_2"]


async def test_with_neither_journal_nor_store_a_running_answer_ends_well_and_its_record_is_not_lost(
    store: Store, directory: Path
) -> None:
    disk, away = FullDisk(), AwayStore(store)
    ledger = ledger_of(away, Journal(directory, write=disk.write), unjournaled_seconds=0.3)
    await ledger.start()
    await ledger.settle(usage_record(request_id="req_1"))
    async with asyncio.timeout(0.2):  # nobody waits for a store that is known to be away
        await ledger.settle(usage_record(request_id="req_2"))
    assert await rows(store) == {}
    away.away = False
    await ledger.flush()
    assert set(await rows(store)) == {"req_1", "req_2"}
    await ledger.aclose()


async def test_records_in_memory_alone_are_limited(
    store: Store, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNJOURNALED", 3)
    away = AwayStore(store)
    ledger = ledger_of(away, Journal(directory, write=FullDisk().write), unjournaled_seconds=0.5)
    await ledger.start()
    for n in range(3):
        await ledger.settle(usage_record(request_id=f"req_{n}"))
    with pytest.raises(LedgerUnavailable):
        await ledger.settle(usage_record(request_id="req_3"))
    away.away = False
    await ledger.flush()
    await ledger.settle(usage_record(request_id="req_4"))
    assert set(await rows(store)) == {"req_0", "req_1", "req_2", "req_4"}
    await ledger.aclose()


async def test_records_in_memory_alone_go_to_the_journal_when_there_is_room_again(
    store: Store, directory: Path
) -> None:
    disk, away = FullDisk(), AwayStore(store)
    ledger = ledger_of(away, Journal(directory, write=disk.write), unjournaled_seconds=0.01)
    await ledger.start()
    for n in range(3):
        await ledger.settle(usage_record(request_id=f"req_{n}"))
    disk.full = False
    await ledger.aclose(patience=0.01)
    assert await rows(store) == {}
    await (await restarted(store, directory)).aclose()
    assert set(await rows(store)) == {"req_0", "req_1", "req_2"}


async def test_a_flush_does_not_wait_for_what_comes_after_it(store: Store, directory: Path) -> None:
    ledger = ledger_of(store, Journal(directory))
    await ledger.start()

    async def keep_settling() -> None:
        for n in range(10_000):
            await ledger.settle(usage_record(request_id=f"req_{n:05}"))
            await asyncio.sleep(0.001)

    load = asyncio.ensure_future(keep_settling())
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        await ledger.flush()
    assert not load.done()
    assert ledger.pending > 0
    load.cancel()
    await ledger.aclose()


async def test_a_start_survives_what_does_not_belong_in_the_journal(store: Store, directory: Path) -> None:
    journal = Journal(directory)
    path = journal.append(encode(usage_record(request_id="req_1")))
    journal.close()
    path.rename(directory / "restored by hand.wal")
    (directory / "a directory.wal").mkdir()
    (directory / "000000000007.wal").write_bytes(b"")
    ledger = await restarted(store, directory)
    assert list(await rows(store)) == ["req_1"]
    ledger.intend(intent("req_2"))
    assert segments(directory) == ["000000000008.wal", "a directory.wal"]
    await ledger.aclose()


async def test_damage_never_takes_the_place_of_earlier_damage(store: Store, directory: Path) -> None:
    for n in range(3):
        (directory / "000000000001.wal").write_bytes(b"no frame %d" % n * 2)
        await (await restarted(store, directory)).aclose()
    assert sorted(path.read_bytes() for path in directory.iterdir()) == [b"no frame %d" % n * 2 for n in range(3)]


async def test_damage_that_cannot_be_set_aside_stays_where_it_is_and_the_rest_is_replayed(
    store: Store, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    journal = Journal(directory)
    path = journal.append(encode(usage_record(request_id="req_1")))
    journal.append(b"not a record")
    journal.close()
    path.write_bytes(b"no frame, for sixteen bytes" + path.read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "_keep", full)
        await (await restarted(store, directory)).aclose()
    assert list(await rows(store)) == ["req_1"]
    assert len(read_segment(path).payloads) == 2
    await (await restarted(store, directory)).aclose()
    assert sorted(item.suffix for item in directory.iterdir()) == [".bad", ".rejected"]


async def test_a_segment_that_cannot_be_deleted_does_not_stop_the_writer(
    store: Store, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    ledger = ledger_of(store, Journal(directory))
    await ledger.start()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", read_only)
        await ledger.settle(usage_record(request_id="req_1"))
        await ledger.flush()
    await ledger.settle(usage_record(request_id="req_2"))
    await ledger.flush()
    assert set(await rows(store)) == {"req_1", "req_2"}
    await ledger.aclose()


# -- intents in the store ----------------------------------------------------------------------------------------------


async def noted(store: Store) -> list[str]:
    async with store.read() as connection:
        return list((await connection.scalars(select(intents.c.request_id))).all())


async def counters(store: Store) -> list[int]:
    """What is reserved on each counter."""
    async with store.read() as connection:
        return list((await connection.scalars(select(budget_counters.c.reserved_nano_usd))).all())


async def test_a_request_that_goes_on_to_a_budgeted_provider_reserves_there(store: Store) -> None:
    made = replica(store, "balanced", every_intent=True)
    asked = exchange(await user_with(store, DOLLAR))
    record = made.accounts.so_far(asked)
    assert await made.budgets.before(asked, Tried("plan", "messages"), BODY, record) is True
    assert await counters(store) == []
    asked.intended = True
    assert await made.budgets.before(asked, TRIED, BODY, record) is True
    assert asked.reservation is not None
    assert await counters(store) == [asked.reservation.amount_nano]
    await made.settle(replace(record, ended=Ended.FINISHED))
    assert await noted(store) == []
    assert await counters(store) == [0]


async def test_a_request_that_is_repaired_is_noted_once(store: Store) -> None:
    made = replica(store, "balanced", every_intent=True)
    asked = exchange(await user_with(store, None))
    for _ in range(3):
        assert await made.budgets.before(asked, TRIED, BODY, made.accounts.so_far(asked)) is True
        asked.intended = True
    assert await noted(store) == [asked.request_id]


async def test_a_reservation_that_comes_too_late_leaves_nothing_behind(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store hung for longer than a request waits for it; nobody would ever release what it then reserved."""
    monkeypatch.setattr("daemon.gateway.spend.PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("daemon.gateway.spend.AWAY_SECONDS", 0.0)
    hanging = asyncio.Event()

    @asynccontextmanager
    async def write() -> AsyncIterator[Any]:
        async with store.write() as connection:
            yield connection
            await hanging.wait()

    made = replica(store, "balanced", write=write, on_store_error="open")
    principal = await user_with(store, DOLLAR)
    first, second = exchange(principal), exchange(principal)
    outcomes = asyncio.gather(
        *(made.budgets.before(asked, TRIED, BODY, made.accounts.so_far(asked)) for asked in (first, second))
    )
    assert [outcome is False for outcome in await outcomes] == [True, True]
    hanging.set()
    third = exchange(principal)
    assert await made.budgets.before(third, TRIED, BODY, made.accounts.so_far(third)) is True
    assert third.reservation is not None
    assert await noted(store) == [third.request_id]
    assert await counter(store, principal.user_id) == (0, third.reservation.amount_nano)


class Clock:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        self.rounds = 0

    async def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.rounds += 1
        if self.rounds == 6:
            raise asyncio.CancelledError


async def test_nothing_is_taken_over_before_every_replica_could_say_that_it_is_alive(store: Store) -> None:
    """After an outage that outlasted the leases, whoever comes first finds all of them expired."""
    alive, other = replica(store, "balanced", owner="alive"), replica(store, "balanced", owner="other")
    principal = await user_with(store, DOLLAR)
    running, dead = exchange(principal), exchange(principal)
    await alive.budgets.before(running, TRIED, BODY, alive.accounts.so_far(running))
    gone = replica(store, "balanced", owner="gone")
    await gone.budgets.before(dead, TRIED, BODY, gone.accounts.so_far(dead))
    clock = Clock()
    clock.now += timedelta(minutes=5)
    away = 1

    @asynccontextmanager
    async def write() -> AsyncIterator[Any]:
        nonlocal away
        if away and clock.rounds == 1:
            away -= 1
            raise OSError("the store is away")
        async with store.write() as connection:
            yield connection
        assert clock.rounds >= 4 or len(await noted(store)) == 2
        if clock.rounds == 3:
            await owner.beat()

    def lease(budgets: Budgets, owner: str, write: Any, sleep: Any = asyncio.sleep) -> Leases:
        return Leases(
            write, budgets, owner=owner, now=lambda: clock.now, day_of=lambda at: day_start(at, ZONE), sleep=sleep
        )

    owner = lease(alive.budgets, "alive", store.write)
    running_on = asyncio.ensure_future(lease(other.budgets, "other", write, clock.sleep).run())
    await asyncio.wait([running_on])
    assert running_on.cancelled()
    assert await noted(store) == [running.request_id]
    assert list(await rows(store)) == [dead.request_id]


async def test_what_a_replica_knows_itself_replaces_what_another_put_down_for_it(
    store: Store, database_url: str, directory: Path
) -> None:
    """It was away for longer than its lease, its journal with it: the exact record was in there."""
    dead, alive = replica(store, "balanced", owner="dead"), replica(store, "balanced", owner="alive")
    principal = await user_with(store, DOLLAR)
    asked, other = exchange(principal), exchange(principal)
    for request in (asked, other):
        await dead.budgets.before(request, TRIED, BODY, dead.accounts.so_far(request))
    meter = UsageMeter(stream=True)
    meter.take_counts(input_tokens=1_000, output_tokens=5_000, cache_read=0, cache_write=0)
    exact = replace(dead.accounts.so_far(asked, meter), ended=Ended.FINISHED, estimated=False, model_served="renamed")
    later = datetime.now(UTC) + timedelta(seconds=90)
    reaper = Leases(store.write, alive.budgets, owner="alive", now=lambda: later, day_of=lambda at: day_start(at, ZONE))
    assert await reaper.reap() == 2
    journals = [directory / name for name in "ab"]
    for path in journals:
        journal = Journal(path)
        journal.append(b"?" + encode(dead.accounts.so_far(other)))
        journal.append(encode(exact))
        journal.close()
    second = Store.open(database_url)
    ledgers = [
        Ledger(opened, Journal(path), day_of=lambda at: day_start(at, ZONE), counts=dead.budgets.counts)
        for opened, path in zip((store, second), journals, strict=True)
    ]
    await asyncio.gather(*(ledger.start() for ledger in ledgers))
    await asyncio.gather(*(ledger.flush() for ledger in ledgers))
    found = await rows(store)
    row = found[asked.request_id]
    assert (row["ended"], row["estimated"], row["output_tokens"]) == ("finished", False, 5_000)
    assert (found[other.request_id]["ended"], sum(ledger.written for ledger in ledgers)) == ("orphaned", 1)
    total = sum(row["cost_nano_usd"] for row in found.values())
    assert await counter(store, principal.user_id) == (total, 0)
    async with store.read() as connection:
        for bucket in ("hour", "day"):
            sums = await usage.rollup(connection, bucket)
            assert (sums["requests"], sums["cost_nano_usd"], sums["estimated_requests"]) == (2, total, 1)
            assert sums["output_tokens"] == sum(row["output_tokens"] for row in found.values())
    await asyncio.gather(*(ledger.aclose() for ledger in ledgers))
    await second.aclose()


async def test_with_a_full_disk_requests_are_noted_in_the_store_and_without_either_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(full=False)
    monkeypatch.setattr("daemon.runtime.Journal", partial(Journal, write=disk.write))
    away = False
    write = Store.write

    def write_or_not(store: Store) -> Any:
        if away:
            raise OperationalError("INSERT", {}, Exception("connection refused"))
        return write(store)

    monkeypatch.setattr(Store, "write", write_or_not)
    async with (
        running_simulator() as (simulator, plan),
        running_daemon(tmp_path, plan) as daemon,
        httpx.AsyncClient(base_url=daemon.url, timeout=20) as client,
    ):
        key = await daemon.create_key()
        store = daemon.runtime.ledger._store

        async def ask(delay: float = 0.0) -> httpx.Response:
            simulator.script(Step(usage={"input": 10, "output": 20}, event_delay=delay))
            body = {"model": "claude-opus-5-5", "stream": True, "max_tokens": 100, "messages": []}
            return await client.post(f"/ak/{key}/v1/messages", json=body)

        assert (await ask()).status_code == 200
        disk.full = True
        running = asyncio.ensure_future(ask(0.1))
        async with asyncio.timeout(5):
            while not await noted(store):
                await asyncio.sleep(0.01)
        away = True
        started = time.monotonic()
        refused = await client.post(f"/ak/{key}/v1/messages", json={"model": "claude-opus-5-5", "messages": []})
        assert time.monotonic() - started < 1.5
        assert (refused.status_code, refused.json()["error"]["type"]) == (529, "overloaded_error")
        assert "event: message_stop" in (await running).text
        away = False
        assert (await ask()).status_code == 200
        assert len(simulator.log) == 3
        assert [row["ended"] for row in await daemon.records()] == ["finished"] * 3
        assert await noted(store) == []


async def test_a_failure_of_our_own_is_on_the_books_and_leaves_no_intent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("daemon.gateway.relay.whole", broken)
    async with (
        running_simulator() as (_, plan),
        running_daemon(tmp_path, plan, PROXY_LEDGER_INTENT="database") as daemon,
        httpx.AsyncClient(base_url=daemon.url, timeout=20) as client,
    ):
        key = await daemon.create_key()
        answer = await client.post(f"/ak/{key}/v1/messages", json={"model": "claude-opus-5-5", "messages": []})
        assert answer.status_code == 500
        [row] = await daemon.records()
        assert (row["ended"], row["status"], row["estimated"], row["cost_nano_usd"] > 0) == ("error", 500, True, True)
        assert await noted(daemon.runtime.ledger._store) == []
