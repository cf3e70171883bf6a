"""Journal and ledger: nothing is lost, nothing is written twice, whatever breaks in between."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.periods import day_start
from daemon.core.record import decode, encode
from daemon.gateway.journal import Journal, JournalError, read_segment
from daemon.gateway.ledger import Ledger
from daemon.store.engine import Store
from tests.factories import usage_record
from tests.support.usage import rollup, rows

UTC_ZONE = ZoneInfo("UTC")
PAYLOADS = [f"payload {n}".encode() * (n + 1) for n in range(6)]


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


def ledger_of(store: Store, journal: Journal, **options: float) -> Ledger:
    return Ledger(store, journal, day_of=lambda instant: day_start(instant, UTC_ZONE), sleep=no_sleep, **options)


async def ids(store: Store) -> list[str]:
    async with store.read() as connection:
        return sorted(row["request_id"] for row in await rows(connection))


def written(directory: Path) -> bytes:
    journal = Journal(directory)
    for payload in PAYLOADS:
        path = journal.append(payload)
    journal.close()
    return path.read_bytes()


def test_a_segment_torn_at_any_byte_gives_its_whole_frames(tmp_path: Path) -> None:
    data = written(tmp_path)
    path = tmp_path / "torn"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        segment = read_segment(path)
        assert list(segment.payloads) == PAYLOADS[: len(segment.payloads)]
        assert segment.damage == ()
    assert len(segment.payloads) == len(PAYLOADS) - 1


def test_a_flipped_bit_costs_one_frame_and_is_set_aside(tmp_path: Path) -> None:
    data = written(tmp_path)
    path = tmp_path / "flipped"
    first = len(PAYLOADS[0]) + 12
    for position in range(first):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        segment = read_segment(path)
        assert list(segment.payloads) == PAYLOADS[1:]
        [damage] = segment.damage
        assert (damage.offset, len(damage.data)) == (0, first)


def test_a_flipped_bit_in_the_last_payload_is_damage_and_not_a_torn_end(tmp_path: Path) -> None:
    data = written(tmp_path)
    last = len(data) - len(PAYLOADS[-1]) - 12
    for position in range(last + 12, len(data)):
        (tmp_path / "flipped").write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        segment = read_segment(tmp_path / "flipped")
        assert list(segment.payloads) == PAYLOADS[:-1]
        assert [damage.offset for damage in segment.damage] == [last]


def test_writes_that_fail_leave_no_files_behind(tmp_path: Path) -> None:
    def full(_: int, __: bytes) -> int:
        raise OSError(28, "No space left on device")

    journal = Journal(tmp_path, write=full)
    for _ in range(3):
        with pytest.raises(JournalError):
            journal.append(b"lost")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_closes_the_segment_and_the_next_one_is_clean(tmp_path: Path) -> None:
    failing = True

    def write(descriptor: int, data: bytes) -> int:
        if failing:
            os.write(descriptor, data[:5])
            raise OSError(28, "No space left on device")
        return os.write(descriptor, data)

    journal = Journal(tmp_path, write=write)
    with pytest.raises(JournalError, match="No space left"):
        journal.append(b"lost")
    failing = False
    assert list(read_segment(journal.append(b"kept")).payloads) == [b"kept"]
    journal.close()


async def test_settled_records_reach_the_store_and_the_journal_is_emptied(store: Store, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    ledger = ledger_of(store, journal)
    await ledger.start()
    for n in range(1200):
        await ledger.settle(usage_record(request_id=f"req_{n:05}"))
    await ledger.flush()
    assert len(await ids(store)) == ledger.written == 1200
    assert ledger.pending == 0
    await ledger.aclose()
    assert list((tmp_path / "journal").iterdir()) == []


async def test_what_a_process_left_behind_is_replayed_once_however_often(store: Store, tmp_path: Path) -> None:
    for copy in range(5):
        journal = Journal(tmp_path / "journal")
        for n in range(20) if copy % 2 else reversed(range(20)):
            journal.append(encode(usage_record(request_id=f"req_{n:02}")))
        journal.append(b"not a record")
        journal.close()
        ledger = ledger_of(store, Journal(tmp_path / "journal"))
        await ledger.start()
        await ledger.aclose()
        assert await ids(store) == [f"req_{n:02}" for n in range(20)]
        assert ledger.written == (0 if copy else 20)
    async with store.read() as connection:
        totals = await rollup(connection)
    assert totals["cost_nano_usd"] == 20 * usage_record().cost.total_nano


class AwayStore:
    """A store that is away for the first `failures` transactions."""

    def __init__(self, store: Store, failures: int) -> None:
        self._store = store
        self.failures = failures
        self.read = store.read

    def write(self) -> object:
        if self.failures:
            self.failures -= 1
            raise OperationalError("INSERT", {}, Exception("connection refused"))
        return self._store.write()


async def test_a_store_that_is_away_loses_nothing(store: Store, tmp_path: Path) -> None:
    away = AwayStore(store, failures=7)
    ledger = ledger_of(away, Journal(tmp_path / "journal"))  # type: ignore[arg-type]
    await ledger.start()
    for n in range(3):
        await ledger.settle(usage_record(request_id=f"req_{n}"))
    await ledger.flush()
    assert await ids(store) == ["req_0", "req_1", "req_2"]
    assert ledger.failures == 7
    await ledger.aclose()


async def test_without_a_journal_a_record_waits_for_the_store(store: Store, tmp_path: Path) -> None:
    def full(_: int, __: bytes) -> int:
        raise OSError(28, "No space left on device")

    ledger = ledger_of(store, Journal(tmp_path / "journal", write=full))
    await ledger.start()
    await ledger.settle(usage_record(request_id="req_1"))
    assert await ids(store) == ["req_1"]
    await ledger.aclose()


class ScriptedStore:
    """A store whose first transactions end as the script says: an exception, or None for as usual."""

    def __init__(self, store: Store, *outcomes: Exception | None) -> None:
        self._store = store
        self._outcomes = list(outcomes)
        self.read = store.read

    def write(self) -> object:
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if outcome is not None:
            raise outcome
        return self._store.write()


REFUSED = IntegrityError("INSERT", {}, Exception("refused"))
GONE = OperationalError("INSERT", {}, Exception("connection refused"))


def rejected(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.rejected"))


async def test_a_record_the_store_refuses_is_set_aside_and_does_not_hold_up_the_others(
    store: Store, tmp_path: Path
) -> None:
    refused = usage_record(request_id="req_bad", duration_ms=2**63)  # SQLite's driver raises OverflowError for it
    ledger = ledger_of(store, Journal(tmp_path))
    await ledger.start()
    for record in (usage_record(request_id="req_1"), refused, usage_record(request_id="req_2")):
        await ledger.settle(record)
    await ledger.flush()
    assert await ids(store) == ["req_1", "req_2"]
    assert decode((tmp_path / "req_bad.rejected").read_bytes()) == refused
    await ledger.aclose()


@pytest.mark.parametrize("outage", [GONE, ConnectionResetError()], ids=["database", "socket"])
async def test_a_store_that_goes_away_while_rows_are_tried_one_by_one_refuses_none_of_them(
    store: Store, tmp_path: Path, outage: Exception
) -> None:
    scripted = ScriptedStore(store, REFUSED, None, outage, outage)
    ledger = ledger_of(scripted, Journal(tmp_path))  # type: ignore[arg-type]
    await ledger.start()
    for n in range(3):
        await ledger.settle(usage_record(request_id=f"req_{n}"))
    await ledger.flush()
    assert await ids(store) == ["req_0", "req_1", "req_2"]
    assert (rejected(tmp_path), ledger.failures, ledger.written) == ([], 2, 3)
    await ledger.aclose()


async def test_a_refused_record_that_cannot_be_set_aside_keeps_its_segment(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_name: str, _payload: bytes) -> None:
        raise OSError(28, "No space left on device")

    journal = Journal(tmp_path)
    monkeypatch.setattr(journal, "reject", full)
    ledger = ledger_of(ScriptedStore(store, REFUSED, REFUSED), journal)  # type: ignore[arg-type]
    await ledger.start()
    for n in range(2):
        await ledger.settle(usage_record(request_id=f"req_{n}"))
    await ledger.aclose()
    assert await ids(store) == ["req_1"]

    later = ledger_of(store, Journal(tmp_path))
    await later.start()
    await later.aclose()
    assert await ids(store) == ["req_0", "req_1"]
    assert list(tmp_path.glob("*.wal")) == []


async def test_a_record_of_the_journal_that_cannot_be_read_is_set_aside(store: Store, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.append(b'{"from": "another version"}')
    journal.close()
    ledger = ledger_of(store, Journal(tmp_path / "journal"))
    await ledger.start()
    await ledger.aclose()
    [kept] = (tmp_path / "journal").iterdir()
    assert (kept.name, kept.read_bytes()) == ("000000000001-0.rejected", b'{"from": "another version"}')


class RefusingStore:
    """Refuses the first transaction for a reason of its own, is away for the second, and works after that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._failures: list[Exception] = [
            OperationalError("INSERT", {}, Exception("connection refused")),
            DataError("INSERT", {}, Exception("value out of range")),
        ]
        self.read = store.read

    def write(self) -> object:
        if self._failures:
            raise self._failures.pop()
        return self._store.write()


async def test_a_store_that_goes_away_while_a_refused_record_is_sought_loses_nothing(
    store: Store, tmp_path: Path
) -> None:
    ledger = ledger_of(RefusingStore(store), Journal(tmp_path / "journal"))  # type: ignore[arg-type]
    await ledger.start()
    for n in range(3):
        await ledger.settle(usage_record(request_id=f"req_{n}"))
    await ledger.flush()
    assert await ids(store) == ["req_0", "req_1", "req_2"]
    await ledger.aclose()
    assert list((tmp_path / "journal").iterdir()) == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_standby_that_refuses_writes_loses_nothing(store: Store, tmp_path: Path) -> None:
    standby = StandbyStore(store, refusals=3)
    ledger = ledger_of(standby, Journal(tmp_path / "journal"))  # type: ignore[arg-type]
    await ledger.start()
    for n in range(3):
        await ledger.settle(usage_record(request_id=f"req_{n}"))
    await ledger.flush()
    assert await ids(store) == ["req_0", "req_1", "req_2"]
    assert ledger.failures == 3
    await ledger.aclose()
    assert list((tmp_path / "journal").iterdir()) == []


class StandbyStore:
    """A PostgreSQL server that has not been promoted yet for the first `refusals` transactions."""

    def __init__(self, store: Store, *, refusals: int) -> None:
        self._store = store
        self._refusals = refusals
        self.read = store.read

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        async with self._store.write() as connection:
            if self._refusals:
                self._refusals -= 1
                await connection.execute(text("SET TRANSACTION READ ONLY"))
            yield connection
