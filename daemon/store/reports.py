"""Sums for reports: exact for any range, one query a piece, every query of a report on one snapshot."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, FromClause, Select, case, extract, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.ranges import Piece
from daemon.core.record import Ended
from daemon.store.engine import OUTAGES, Store
from daemon.store.tables import access_keys, token_usage, usage_aggregates, users
from daemon.store.usage import SUMS

Dimension = Literal["user", "key", "model", "provider", "session", "bucket", "minute"]
Key = tuple[Any, ...]
FIGURES = ("requests", "errors", "estimated_requests", *SUMS)
LONGEST_SECONDS = 2.0
_ROLLUP = usage_aggregates.c
_LEDGER = token_usage.c
_EPOCH = extract("epoch", _LEDGER.admitted_at)
_SHORT = text("SELECT set_config('statement_timeout', :timeout, true), set_config('jit', 'off', true)")
_FEW = 100  # ids in a query; with more it is faster to read all names
_CANCELLED = "57014"  # PostgreSQL's state of a statement that ran into its timeout


class TooSlow(Exception):
    """The report would take longer than anybody should wait."""


@dataclass(frozen=True, slots=True)
class Only:
    """Whose usage, of what. `among` narrows a dimension to some of its groups."""

    user_id: UUID | None = None
    access_key_id: UUID | None = None
    provider: str | None = None
    model: str | None = None
    team: str | None = None
    session_id: str | None = None
    among: tuple[Dimension, tuple[Any, ...]] | None = None

    def of_session(self, session_id: str | None) -> "Only":
        """The same, of one session."""
        return replace(self, session_id=session_id)


@dataclass(slots=True)
class Table:
    """Sums by key; the order of numbers is that of `names`."""

    names: tuple[str, ...]
    rows: dict[Key, list[int]] = field(default_factory=dict)

    def add(self, key: Key, numbers: Sequence[int]) -> None:
        """Move the sums of a key."""
        known = self.rows.setdefault(key, [0] * len(self.names))
        for index, number in enumerate(numbers):
            known[index] += number


@asynccontextmanager
async def reading(store: Store, *, seconds: float = LONGEST_SECONDS) -> AsyncIterator[AsyncConnection]:
    """A connection on which all queries see the same moment, and none takes longer than `seconds`.

    Raises:
        TooSlow: one did.
    """
    async with store.read() as connection:
        if store.dialect == "postgresql":
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            await connection.execute(_SHORT, {"timeout": str(int(seconds * 1000))})
            try:
                yield connection
            except OUTAGES as error:
                if getattr(error.__cause__, "sqlstate", None) == _CANCELLED:
                    raise TooSlow from error
                raise
        else:
            async with _interrupted_after(connection, seconds):
                yield connection


async def sums(
    connection: AsyncConnection,
    pieces: Sequence[Piece],
    *,
    by: Sequence[Dimension] = (),
    only: Only,
    names: tuple[str, ...] = FIGURES,
    most: int | None = None,
) -> Table:
    """Sums over all pieces. A key has one member for each dimension; the bucket is where the row's rollup begins.

    `most` keeps only that many groups, the most expensive, and needs a single piece.
    """
    assert most is None or len(pieces) <= 1
    table = Table(names)
    for piece in pieces:
        for key, numbers in await _piece(connection, piece, by, only, names, most):
            table.add(key, numbers)
    return table


async def names(connection: AsyncConnection, dimension: str | None, ids: Sequence[Any]) -> dict[Any, str]:
    """Names of users or keys. Deleted ones have theirs: a report of last month names who has left since."""
    if dimension not in ("user", "key") or not ids:
        return {}
    table = users if dimension == "user" else access_keys
    query = select(table.c.id, table.c.name)
    found = await connection.execute(query.where(table.c.id.in_(ids)) if len(ids) <= _FEW else query)
    return {row.id: row.name for row in found}


class Names:
    """Names of users and keys beside rows of the ledger; each is looked up once."""

    def __init__(self) -> None:
        self._users: dict[Any, str] = {}
        self._keys: dict[Any, str] = {}

    async def added(self, connection: AsyncConnection, rows: Sequence[Mapping[Any, Any]]) -> list[dict[str, Any]]:
        """The rows with `user_name` and `access_key_name`, None for who was erased."""
        for dimension, column, known in (("user", "user_id", self._users), ("key", "access_key_id", self._keys)):
            fresh = {row[column] for row in rows} - known.keys() - {None}
            known |= await names(connection, dimension, list(fresh))
        return [
            {
                **row,
                "user_name": self._users.get(row["user_id"]),
                "access_key_name": self._keys.get(row["access_key_id"]),
            }
            for row in rows
        ]


async def teams(connection: AsyncConnection) -> dict[UUID, str | None]:
    """The team of every user there ever was."""
    return {row.id: row.team for row in await connection.execute(select(users.c.id, users.c.team))}


async def _piece(
    connection: AsyncConnection,
    piece: Piece,
    by: Sequence[Dimension],
    only: Only,
    names: tuple[str, ...],
    most: int | None,
) -> list[tuple[Key, list[int]]]:
    query = _of_ledger(piece, by, only, names) if piece.source == "ledger" else _of_rollup(piece, by, only, names)
    if by:
        query = query.group_by(*(f"d{index}" for index in range(len(by))))
    if most is not None:
        query = query.order_by(text("cost_nano_usd DESC")).limit(most)
    width = len(by)
    rows: list[tuple[Key, list[int]]] = []
    for row in await connection.execute(query):
        if row[width] is None:  # no rows, and nothing to group by
            continue
        key = tuple(_member(dimension, row[index], piece) for index, dimension in enumerate(by))
        rows.append((key, [int(number) for number in row[width:]]))
    return rows


def _of_rollup(piece: Piece, by: Sequence[Dimension], only: Only, names: tuple[str, ...]) -> Select[Any]:
    dimensions = [_rollup_dimension(dimension).label(f"d{index}") for index, dimension in enumerate(by)]
    numbers = [func.sum(_ROLLUP[name]).label(name) for name in names]
    return (
        select(*dimensions, *numbers)
        .select_from(usage_aggregates)
        .where(
            _ROLLUP.bucket == piece.source,
            _ROLLUP.bucket_start >= piece.since,
            _ROLLUP.bucket_start < piece.until,
            *_conditions(only, usage_aggregates, _ROLLUP.model),
        )
    )


def _of_ledger(piece: Piece, by: Sequence[Dimension], only: Only, names: tuple[str, ...]) -> Select[Any]:
    dimensions = [_ledger_dimension(dimension).label(f"d{index}") for index, dimension in enumerate(by)]
    numbers = [ledger_sum(name).label(name) for name in names]
    return (
        select(*dimensions, *numbers)
        .select_from(token_usage)
        .where(*between(piece.since, piece.until), *ledger_conditions(only))
    )


def _rollup_dimension(dimension: Dimension) -> ColumnElement[Any]:
    columns: dict[Dimension, ColumnElement[Any]] = {
        "user": _ROLLUP.user_id,
        "key": _ROLLUP.access_key_id,
        "model": _ROLLUP.model,
        "provider": _ROLLUP.provider,
        "bucket": _ROLLUP.bucket_start,
    }
    return columns[dimension]


def _ledger_dimension(dimension: Dimension) -> ColumnElement[Any]:
    columns: dict[Dimension, ColumnElement[Any]] = {
        "user": _LEDGER.user_id,
        "key": _LEDGER.access_key_id,
        "model": _LEDGER.model_served,
        "provider": _LEDGER.provider,
        "session": _LEDGER.session_id,
        "bucket": literal(0),  # a piece of the ledger lies within one bucket
        "minute": _EPOCH - _EPOCH % 60,
    }
    return columns[dimension]


def _member(dimension: Dimension, value: Any, piece: Piece) -> Any:
    if dimension == "bucket":
        return piece.since if piece.source == "ledger" else value
    return datetime.fromtimestamp(int(value), UTC) if dimension == "minute" else value


def ledger_sum(name: str) -> ColumnElement[Any]:
    """A figure as a sum over rows of the ledger; None where there are no rows."""
    match name:
        case "requests":
            return func.nullif(func.count(), 0)
        case "errors":
            return func.sum(case((_LEDGER.ended == Ended.ERROR.value, 1), else_=0))
        case "estimated_requests":
            return func.sum(case((_LEDGER.estimated, 1), else_=0))
        case _:
            return func.sum(_LEDGER[name])


def ledger_conditions(only: Only) -> list[ColumnElement[bool]]:
    """A filter as conditions on the ledger."""
    conditions = _conditions(only, token_usage, _LEDGER.model_served)
    if only.session_id is not None:
        conditions.append(_LEDGER.session_id == only.session_id)
    return conditions


def _conditions(only: Only, table: FromClause, model: ColumnElement[Any]) -> list[ColumnElement[bool]]:
    wanted = (
        (table.c.user_id, only.user_id),
        (table.c.access_key_id, only.access_key_id),
        (table.c.provider, only.provider),
        (model, only.model),
    )
    conditions = [column == value for column, value in wanted if value is not None]
    if only.team is not None:
        conditions.append(table.c.user_id.in_(select(users.c.id).where(users.c.team == only.team)))
    if only.among is not None:
        dimension, groups = only.among
        of = _ledger_dimension if table is token_usage else _rollup_dimension
        conditions.append(of(dimension).in_(groups))
    return conditions


def between(since: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    """A range as conditions on the ledger."""
    conditions: list[ColumnElement[bool]] = []
    if since is not None:
        conditions.append(_LEDGER.admitted_at >= since)
    if until is not None:
        conditions.append(_LEDGER.admitted_at < until)
    return conditions


@asynccontextmanager
async def _interrupted_after(connection: AsyncConnection, seconds: float) -> AsyncIterator[None]:
    """SQLite has no timeout of its own: a timer interrupts it."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    loop = asyncio.get_running_loop()
    interrupts: list[asyncio.Task[None]] = []
    timer = loop.call_later(seconds, lambda: interrupts.append(loop.create_task(driver.interrupt())))
    try:
        yield
    except OUTAGES as error:
        if interrupts:
            raise TooSlow from error
        raise
    finally:
        timer.cancel()
