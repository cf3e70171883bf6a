"""The ledger as a stream: rows in the order of their ids, read in small queries, so that memory stays flat."""

import csv
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any

import orjson

from daemon.contract.usage import ExportFormat, UsageEntry
from daemon.services import cursors
from daemon.services.usage_figures import record
from daemon.services.usage_range import Ranges, Span
from daemon.store import ledger
from daemon.store.engine import Store
from daemon.store.reports import Names, Only

ROWS = 500  # of one query, and of one chunk
WINDOW = 20_000  # ids that one query looks through at most
FIELDS = tuple(UsageEntry.model_fields)
_CSV_FIELDS = tuple(name for name in FIELDS if name != "attempts")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class UsageExport:
    """Exports. A row's `cursor` is where a later export goes on."""

    def __init__(self, store: Store, ranges: Ranges) -> None:
        self._store = store
        self._ranges = ranges

    async def open(self, span: Span, only: Only, form: ExportFormat, cursor: str | None) -> AsyncIterator[bytes]:
        """All rows of now, after `cursor`; as CSV with a header unless there is a cursor.

        Raises:
            Invalid: the span or the cursor is none. What is wrong is known before the first byte.
        """
        since, until = (None, None) if span == Span() else self._ranges.bounds(span)
        after = cursors.decode_number(cursor) or 0
        end = await ledger.settled_id(self._store)
        rows = self._rows(only, after, end, since, until)
        return _csv(rows, header=cursor is None) if form == "csv" else _jsonl(rows)

    async def _rows(
        self, only: Only, after: int, end: int, since: datetime | None, until: datetime | None
    ) -> AsyncIterator[list[dict[str, Any]]]:
        names = Names()
        while after < end:
            up_to = min(after + WINDOW, end)
            async with self._store.read() as connection:
                rows = await ledger.window(
                    connection, only, after=after, up_to=up_to, limit=ROWS, since=since, until=until
                )
                named = await names.added(connection, rows)
                if not rows:
                    following = await ledger.next_id(connection, up_to)
            if rows:
                yield [record(row) for row in named]
                after = rows[-1]["id"] if len(rows) == ROWS else up_to
            else:
                after = end if following is None else following - 1


async def _jsonl(pages: AsyncIterator[list[dict[str, Any]]]) -> AsyncIterator[bytes]:
    async with aclosing(pages) as rows:  # type: ignore[type-var]
        async for page in rows:
            lines = (
                orjson.dumps({name: row[name] for name in FIELDS}, default=str, option=orjson.OPT_UTC_Z) for row in page
            )
            yield b"".join(line + b"\n" for line in lines)


async def _csv(pages: AsyncIterator[list[dict[str, Any]]], *, header: bool) -> AsyncIterator[bytes]:
    if header:
        yield (",".join(_CSV_FIELDS) + "\n").encode()
    async with aclosing(pages) as rows:  # type: ignore[type-var]
        async for page in rows:
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="\n").writerows([_cells(row) for row in page])
            yield buffer.getvalue().encode()


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [_cell(row[name]) for name in _CSV_FIELDS]


def _cell(value: object) -> str:
    """A value as text that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return str(value)
