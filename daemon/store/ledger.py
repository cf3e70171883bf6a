"""Rows of the ledger: pages of them, those of a session, and all of them in order."""

import asyncio
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.record import Ended
from daemon.store.engine import Store, StoreAway
from daemon.store.reports import FIGURES, Only, between, ledger_conditions, ledger_sum
from daemon.store.tables import token_usage

_LEDGER = token_usage.c
EVERYTHING = Only()
_WRITER_LOOKS, _WRITER_PAUSE = 150, 0.02
_WRITERS = """
SELECT pid, virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND relation = 'token_usage'::regclass AND mode = 'RowExclusiveLock' AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def records(
    connection: AsyncConnection,
    *,
    limit: int,
    only: Only = EVERYTHING,
    before_id: int | None = None,
    request_id: str | None = None,
    errors_only: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[RowMapping]:
    """Ledger rows, newest first, below the row `before_id`."""
    conditions = ledger_conditions(only)
    if request_id is not None:
        conditions.append(_LEDGER.request_id == request_id)
    if before_id is not None:
        conditions.append(_LEDGER.id < before_id)
    if errors_only:
        conditions.append(_LEDGER.ended != Ended.FINISHED.value)
    conditions += between(since, until)
    query = select(token_usage).where(*conditions).order_by(_LEDGER.id.desc()).limit(limit)
    return list((await connection.execute(query)).mappings())


async def session_agents(connection: AsyncConnection, only: Only) -> list[RowMapping]:
    """Sums of one session, a row for each agent, the agent that started it, and the user."""
    columns = (_LEDGER.agent_id, _LEDGER.parent_agent_id, _LEDGER.user_id)
    numbers = [ledger_sum(name).label(name) for name in FIGURES]
    query = (
        select(*columns, func.min(_LEDGER.admitted_at).label("first"), func.max(_LEDGER.admitted_at).label("last"))
        .add_columns(*numbers)
        .where(*ledger_conditions(only))
        .group_by(*columns)
    )
    return list((await connection.execute(query)).mappings())


async def session_requests(connection: AsyncConnection, only: Only, *, most: int) -> list[RowMapping]:
    """The rows of one session in the order in which they came, at most so many."""
    query = select(token_usage).where(*ledger_conditions(only)).order_by(_LEDGER.admitted_at, _LEDGER.id).limit(most)
    return list((await connection.execute(query)).mappings())


async def settled_id(store: Store) -> int:
    """The id of the newest row, once every row with a smaller one can be seen that ever will be.

    PostgreSQL gives out ids before it commits: writers that were at work when the newest row was looked up are waited
    for. No lock is taken.

    Raises:
        StoreAway: they do not come to an end.
    """
    async with store.read() as connection:
        newest = int(await connection.scalar(select(func.max(_LEDGER.id))) or 0)
        if store.dialect != "postgresql":
            return newest
        waiting: set[Any] | None = None
        for _ in range(_WRITER_LOOKS):
            writers = {tuple(row) for row in await connection.execute(text(_WRITERS))}
            waiting = writers if waiting is None else waiting & writers
            if not waiting:
                return newest
            await asyncio.sleep(_WRITER_PAUSE)
    raise StoreAway("writers of the ledger do not come to an end")


async def next_id(connection: AsyncConnection, after: int) -> int | None:
    """The smallest id above `after`."""
    found = await connection.scalar(select(func.min(_LEDGER.id)).where(_LEDGER.id > after))
    return None if found is None else int(found)


async def window(
    connection: AsyncConnection,
    only: Only,
    *,
    after: int,
    up_to: int,
    limit: int,
    since: datetime | None,
    until: datetime | None,
) -> list[RowMapping]:
    """Ledger rows with ids in (after, up_to], the oldest first."""
    conditions = [_LEDGER.id > after, _LEDGER.id <= up_to, *ledger_conditions(only), *between(since, until)]
    query = select(token_usage).where(*conditions).order_by(_LEDGER.id).limit(limit)
    return list((await connection.execute(query)).mappings())
