"""The ledger's writer: every record is in the journal before the client sees the end, and in the store soon after."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import structlog

from daemon.core.record import UsageRecord, decode, encode
from daemon.gateway.journal import Journal, JournalError, Segment, read_segment
from daemon.observability.tasks import spawn
from daemon.store import usage
from daemon.store.engine import OUTAGES, Store

log = structlog.get_logger()

BATCH = 100  # rows a transaction: more would hold the loop for longer than 20 ms
GATHER_SECONDS = 0.15  # records of that long are one transaction: its statements cost more than its rows
UNJOURNALED = 10_000  # records that wait in memory alone, when neither disk nor store takes them
_INTENT = b"?"
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 10.0


class LedgerUnavailable(Exception):
    """Nothing took the record: a request must not go out, or an answer must not be called finished."""


class _Pending:
    """A record on its way to the store, and the journal segments that keep it, and its intent, until then."""

    __slots__ = ("committed", "journaled", "record", "segments")

    def __init__(self, record: UsageRecord, *segments: Path, journaled: bool = True) -> None:
        self.record = record
        self.segments = segments
        self.journaled = journaled
        self.committed: asyncio.Future[None] | None = None


class Ledger:
    """Takes usage records; `start` replays what an earlier process left behind."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        *,
        day_of: Callable[[datetime], datetime],
        counts: Callable[[str], bool] = lambda provider: True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        unjournaled_seconds: float = 2.0,
    ) -> None:
        self._store = store
        self._journal = journal
        self._day_of = day_of
        self._counts = counts
        self._sleep = sleep
        self._unjournaled_seconds = unjournaled_seconds
        self._queue: deque[_Pending] = deque()
        self._held: dict[Path, int] = {}  # records and intents per segment that are not in the store yet
        self._intended: dict[str, Path] = {}  # where the last intent of a running request is
        self._arrived = asyncio.Event()
        self._moved = asyncio.Event()  # set, and replaced, whenever records have left the queue
        self._taken = self._left = 0  # records that ever came into the queue, and that left it
        self._unjournaled = 0
        self._writer: asyncio.Task[None] | None = None
        self._store_fails = False
        self.written = 0
        self.failures = 0

    @property
    def pending(self) -> int:
        """Records that are not in the store yet."""
        return len(self._queue)

    async def start(self) -> None:
        """Replay the journal into the queue and start writing. With the store away, replaying goes on behind.

        A request whose process ended before its record was written is on the books as far as its intent knows it.
        """
        intents: dict[str, tuple[UsageRecord, Path]] = {}
        for path in self._journal.old():
            try:
                segment = read_segment(path)
            except OSError as error:
                log.error("journal unreadable", segment=path.name, reason=str(error))
                self._hold(path)  # to the next start
                continue
            for record, is_intent in self._records(segment):
                if is_intent:
                    intents[record.request_id] = (record, path)
                else:
                    intents.pop(record.request_id, None)
                    self._enqueue(_Pending(record, self._hold(path)))
        for record, path in intents.values():
            self._enqueue(_Pending(record, self._hold(path)))
        for path in self._journal.old():  # damaged, or superseded, as a whole
            if path not in self._held:
                self._journal.discard(path)
        replayed = self.pending
        self._writer = spawn(self._write(), name="ledger writer")
        if replayed:
            log.info("journal replayed", records=replayed, unfinished=len(intents))

    def _records(self, segment: Segment) -> Iterator[tuple[UsageRecord, bool]]:
        """The records of a segment, and whether each is an intent; what is none is set aside, or else stays in it."""
        for damage in segment.damage:
            log.error("journal damaged", segment=segment.path.name, offset=damage.offset, bytes=len(damage.data))
            self._aside(segment.path, partial(self._journal.set_aside, segment.path, damage))
        for number, payload in enumerate(segment.payloads):
            try:
                record = decode(payload.removeprefix(_INTENT))
            except ValueError as error:
                log.error("journal record unreadable", segment=segment.path.name, reason=str(error))
                name = f"{segment.path.stem}-{number}"
                self._aside(segment.path, partial(self._journal.reject, name, payload))
                continue
            yield record, payload.startswith(_INTENT)

    def _aside(self, path: Path, keep: Callable[[], None]) -> None:
        try:
            keep()
        except OSError as full:
            log.error("journal damage not set aside", segment=path.name, reason=str(full))
            self._hold(path)  # to the next start

    def intend(self, record: UsageRecord) -> None:
        """Note a request before it goes out, or how far it is: its record, should no other come.

        Raises:
            LedgerUnavailable: the journal does not take it.
        """
        try:
            segment = self._hold(self._journal.append(_INTENT + encode(record)))
        except JournalError as error:
            log.error("journal write failed", reason=str(error))
            raise LedgerUnavailable from error
        earlier = self._intended.get(record.request_id)
        self._intended[record.request_id] = segment
        if earlier is not None:
            self._release(earlier)

    async def settle(self, record: UsageRecord) -> None:
        """Make a record durable. Does not wait for the store, unless the journal cannot be written.

        With the store away as well it stays in memory: its answer is complete and paid for, and new requests are
        refused meanwhile.

        Raises:
            LedgerUnavailable: there are too many of those.
        """
        intent = self._intended.pop(record.request_id, None)
        kept = (intent,) if intent is not None else ()
        try:
            self._enqueue(_Pending(record, self._hold(self._journal.append(encode(record))), *kept))
        except JournalError as error:
            log.error("journal write failed", reason=str(error))
            await self._settle_in_store(_Pending(record, *kept, journaled=False))

    async def flush(self) -> None:
        """Wait until everything settled so far is in the store, whatever comes meanwhile."""
        target = self._taken
        while self._left < target:
            await self._moved.wait()

    async def aclose(self, *, patience: float = 10.0) -> None:
        """Flush for at most `patience` seconds, then stop; what is left stays in the journal for the next start."""
        try:
            async with asyncio.timeout(patience):
                await self.flush()
        except TimeoutError:
            log.warning("ledger not drained", pending=self.pending)
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])
        self._journal_late()
        if self._unjournaled:
            log.error("usage records lost: neither journal nor store took them", records=self._unjournaled)
        self._journal.close()

    async def _settle_in_store(self, pending: _Pending) -> None:
        if self._unjournaled >= UNJOURNALED:
            raise LedgerUnavailable
        self._unjournaled += 1
        self._enqueue(pending)
        if self._store_fails:
            return
        pending.committed = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._unjournaled_seconds):
                await asyncio.shield(pending.committed)
        except TimeoutError:
            pending.committed = None
            log.error("usage record in memory alone", request_id=pending.record.request_id)

    def _journal_late(self) -> None:
        """Put into the journal what it did not take before: there may be room on the disk again."""
        if not self._unjournaled:
            return
        for pending in self._queue:
            if pending.journaled:
                continue
            try:
                segment = self._hold(self._journal.append(encode(pending.record)))
            except JournalError:
                return
            pending.segments = (segment, *pending.segments)
            pending.journaled = True
            self._unjournaled -= 1

    def _wait_no_longer(self) -> None:
        """The store is away: answers do not wait for it."""
        for pending in self._queue if self._unjournaled else ():
            if pending.committed is not None:
                pending.committed.set_result(None)
                pending.committed = None

    def _enqueue(self, pending: _Pending) -> None:
        self._queue.append(pending)
        self._taken += 1
        self._arrived.set()

    def _hold(self, segment: Path) -> Path:
        self._held[segment] = self._held.get(segment, 0) + 1
        return segment

    def _release(self, segment: Path) -> None:
        """Forget a segment when nothing in it is needed; the one being written stays while more may follow."""
        self._held[segment] -= 1
        if not self._held[segment]:
            del self._held[segment]
            if segment != self._journal.path or not self._queue:
                self._journal.discard(segment)

    async def _write(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            await self._arrived.wait()
            if len(self._queue) < BATCH:
                await self._sleep(GATHER_SECONDS)
            batch = [self._queue[i] for i in range(min(BATCH, len(self._queue)))]
            try:
                await self._append_batch(batch)
            except OUTAGES as error:
                self.failures += 1
                self._store_fails = True
                log.warning("ledger write failed", reason=type(error).__name__, pending=self.pending, retry_in=backoff)
                self._journal_late()
                self._wait_no_longer()
                await self._sleep(backoff)
                backoff = min(backoff * 2, LONGEST_BACKOFF)
            else:
                backoff = FIRST_BACKOFF
                self._store_fails = False

    async def _append_batch(self, batch: list[_Pending]) -> None:
        """Bring a batch into the store, or set aside what the store refuses.

        Raises:
            one of `OUTAGES`: what is not in the store yet is still in the queue.
        """
        try:
            await self._append([pending.record for pending in batch])
        except OUTAGES:
            raise
        except Exception:  # noqa: BLE001 - a driver refuses a value in its own ways; the writer must outlive them all
            await self._append_one_by_one(batch)
        else:
            self._committed(batch)

    async def _append(self, records: list[UsageRecord]) -> None:
        async with self._store.write() as connection:
            if connection.dialect.name == "postgresql":  # the journal is deleted on the strength of this commit
                await connection.exec_driver_sql("SET LOCAL synchronous_commit TO on")
            self.written += await usage.append(connection, records, day_of=self._day_of, counts=self._counts)

    async def _append_one_by_one(self, batch: list[_Pending]) -> None:
        """The store refused the batch: find the record it refuses, keep that one for a person, let the others in."""
        for pending in batch:
            try:
                await self._append([pending.record])
            except OUTAGES:  # the store went away: that says nothing about the record
                raise
            except Exception as error:  # noqa: BLE001 - as above
                self._set_aside(pending, error)
            self._committed([pending])

    def _set_aside(self, pending: _Pending, error: Exception) -> None:
        self.failures += 1
        request_id = pending.record.request_id
        log.error("usage record refused", request_id=request_id, reason=type(getattr(error, "orig", error)).__name__)
        try:
            self._journal.reject(request_id, encode(pending.record))
        except OSError as full:
            log.error("usage record not set aside", request_id=request_id, reason=str(full))
            if pending.segments:  # its segment is kept: the next start tries again
                self._hold(pending.segments[0])
            elif pending.committed is not None and not pending.committed.done():
                pending.committed.set_exception(LedgerUnavailable())

    def _committed(self, batch: list[_Pending]) -> None:
        for pending in batch:
            self._queue.popleft()
            self._left += 1
            self._unjournaled -= not pending.journaled
            if pending.committed is not None and not pending.committed.done():
                pending.committed.set_result(None)
            for segment in pending.segments:
                self._release(segment)
        if not self._queue:
            self._arrived.clear()
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
