"""P8: replaying any segment of a journal, however often and by however many at once, changes nothing."""

import asyncio
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from daemon.core.periods import day_start
from daemon.core.record import Ended, encode
from daemon.gateway.journal import Journal
from daemon.gateway.ledger import Ledger
from daemon.store.engine import Store
from daemon.store.tables import budget_counters, intents, token_usage, usage_aggregates
from tests.drill.rig import count
from tests.gateway.test_budgets import BODY, DOLLAR, TRIED, Replica, exchange, replica, user_with

pytestmark = [pytest.mark.drill, pytest.mark.timeout(300)]

REPLAYS = count("REPLAYS", 2)
RECORDS = count("RECORDS", 300)
ZONE = ZoneInfo("UTC")


def ledger_of(made: Replica, store: Store, directory: Path) -> Ledger:
    return Ledger(store, Journal(directory), day_of=lambda at: day_start(at, ZONE), counts=made.budgets.counts)


async def state(store: Store) -> list[list[tuple[Any, ...]]]:
    """All that replaying could change."""
    async with store.read() as connection:
        tables = (token_usage, usage_aggregates, budget_counters, intents)
        found = [(await connection.execute(select(table))).all() for table in tables]
    return [sorted((tuple(row) for row in rows), key=str) for rows in found]


async def test_replaying_segments_in_any_order_by_two_at_once_changes_nothing(
    store: Store, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.gateway.journal.SEGMENT_LIMIT", 16 * 1024)
    made = replica(store, "balanced")
    principals = [await user_with(store, 1_000 * DOLLAR) for _ in range(5)]
    first = Journal(tmp_path / "first")
    dice = random.Random(3)
    for number in range(RECORDS):
        asked = exchange(principals[number % len(principals)])
        record = made.accounts.so_far(asked)
        assert await made.budgets.before(asked, TRIED, BODY, record) is True
        first.append(b"?" + encode(record))
        if dice.random() < 0.9:
            first.append(encode(replace(record, ended=Ended.FINISHED, estimated=False)))
    first.close()
    segments = sorted((tmp_path / "first").glob("*.wal"))
    assert len(segments) > 5

    ledger = ledger_of(made, store, _copied(segments, tmp_path / "0"))
    await ledger.start()
    await ledger.flush()
    await ledger.aclose()
    before = await state(store)
    assert len(before[0]) == RECORDS
    assert before[3] == []

    other = Store.open(database_url)
    for turn in range(REPLAYS):
        some = [dice.sample(segments, dice.randrange(1, len(segments) + 1)) for _ in range(2)]
        ledgers = [
            ledger_of(made, opened, _copied(chosen, tmp_path / f"{turn}-{number}", shuffled=dice))
            for number, (opened, chosen) in enumerate(zip((store, other), some, strict=True))
        ]
        await asyncio.gather(*(ledger.start() for ledger in ledgers))
        await asyncio.gather(*(ledger.flush() for ledger in ledgers))
        await asyncio.gather(*(ledger.aclose() for ledger in ledgers))
        assert sum(ledger.written for ledger in ledgers) == 0
        assert await state(store) == before
    await other.aclose()


async def test_two_that_replay_the_same_journal_at_once_write_it_once(
    store: Store, database_url: str, tmp_path: Path
) -> None:
    made = replica(store, "balanced")
    principal = await user_with(store, 1_000 * DOLLAR)
    journal = Journal(tmp_path / "first")
    total = 0
    for _ in range(RECORDS):
        asked = exchange(principal)
        record = made.accounts.so_far(asked)
        assert await made.budgets.before(asked, TRIED, BODY, record) is True
        journal.append(encode(replace(record, ended=Ended.FINISHED)))
        total += record.cost.total_nano
    journal.close()
    other = Store.open(database_url)
    segments = sorted((tmp_path / "first").glob("*.wal"))
    ledgers = [
        ledger_of(made, opened, _copied(segments, tmp_path / name)) for name, opened in (("a", store), ("b", other))
    ]
    await asyncio.gather(*(ledger.start() for ledger in ledgers))
    await asyncio.gather(*(ledger.flush() for ledger in ledgers))
    assert sum(ledger.written for ledger in ledgers) == RECORDS
    rows, _, [counter], left = await state(store)
    assert (len(rows), left) == (RECORDS, [])
    assert total in counter
    await asyncio.gather(*(ledger.aclose() for ledger in ledgers))
    await other.aclose()


def _copied(segments: list[Path], directory: Path, *, shuffled: random.Random | None = None) -> Path:
    """The segments in a directory of their own, under names in another order."""
    directory.mkdir()
    chosen = list(segments)
    if shuffled is not None:
        shuffled.shuffle(chosen)
    for number, segment in enumerate(chosen, 1):
        shutil.copy(segment, directory / f"{number:012d}.wal")
    return directory
