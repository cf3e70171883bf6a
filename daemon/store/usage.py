"""The ledger and its rollups: appended together.

Rows go in once, whatever is replayed: the request id is unique, and only rows that were really inserted move the
rollups, in the same transaction.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from operator import add, neg
from typing import Any
from uuid import UUID

from sqlalchemy import delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.record import Cost, Ended, UsageRecord
from daemon.core.tokens import TokenCounts
from daemon.store import budgets
from daemon.store.bulk import insert_records
from daemon.store.tables import access_keys, token_usage, usage_aggregates, users

SUMS = (
    "input_tokens",
    "output_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
    "thinking_tokens",
    "input_cost_nano_usd",
    "output_cost_nano_usd",
    "cache_write_5m_cost_nano_usd",
    "cache_write_1h_cost_nano_usd",
    "cache_read_cost_nano_usd",
    "cost_nano_usd",
)
_COUNTERS = ("requests", "errors", "estimated_requests")
_ADDED = (*_COUNTERS, *SUMS)


async def append(
    connection: AsyncConnection,
    records: Sequence[UsageRecord],
    *,
    day_of: Callable[[datetime], datetime],
    counts: Callable[[str], bool] = lambda provider: True,
) -> int:
    """Insert records that are not there yet and move rollups and budget counters by exactly those.

    What a request's own replica knows of its end takes the place of what another, that thought it dead, put down.
    `day_of` gives the instant at which the day of an instant began, in the budget's zone; `counts` says whether the
    cost of a provider counts against budgets. Returns how many were inserted.
    """
    first: dict[str, UsageRecord] = {}
    for record in records:  # in the order of arrival, which becomes that of the ids
        first.setdefault(record.request_id, record)
    unique = list(first.values())
    known_users = await _existing(connection, users, {record.user_id for record in unique})
    known_keys = await _existing(connection, access_keys, {record.access_key_id for record in unique})
    inserted = await insert_records(connection, unique, known_users, known_keys) if unique else set()
    clashing = [record for record in unique if record.request_id not in inserted and record.ended is not Ended.ORPHANED]
    undone = await _undo_orphans(connection, clashing) if clashing else {}
    if undone:
        late = [record for record in clashing if record.request_id in undone]
        inserted |= await insert_records(connection, late, known_users, known_keys)
    fresh = [record for record in unique if record.request_id in inserted]
    if fresh:
        await _roll_up(connection, fresh, list(undone.values()), day_of)
        await _touch_keys(connection, fresh)
    if unique:
        await budgets.settle(connection, list(first), fresh, undone=list(undone.values()), counts=counts)
    return len(fresh)


async def _undo_orphans(connection: AsyncConnection, records: Sequence[UsageRecord]) -> dict[str, UsageRecord]:
    """Take the rows of orphans that were none off the ledger; returns what they had added, by request id."""
    by_id = {record.request_id: record for record in records}
    c = token_usage.c
    gone = delete(token_usage).where(c.request_id.in_(sorted(by_id)), c.ended == Ended.ORPHANED.value)
    rows = await connection.execute(
        gone.returning(
            c.request_id, c.provider, c.model_served, c.estimated, c.admitted_at, *(c[name] for name in SUMS)
        )
    )
    return {
        row.request_id: replace(
            by_id[row.request_id],
            provider=row.provider,
            model_served=row.model_served,
            ended=Ended.ORPHANED,
            estimated=row.estimated,
            admitted_at=row.admitted_at,
            tokens=TokenCounts(
                input=row.input_tokens,
                output=row.output_tokens,
                cache_write_5m=row.cache_write_5m_tokens,
                cache_write_1h=row.cache_write_1h_tokens,
                cache_read=row.cache_read_tokens,
                thinking=row.thinking_tokens,
            ),
            cost=Cost(
                row.input_cost_nano_usd,
                row.output_cost_nano_usd,
                row.cache_write_5m_cost_nano_usd,
                row.cache_write_1h_cost_nano_usd,
                row.cache_read_cost_nano_usd,
            ),
        )
        for row in rows
    }


async def _existing(connection: AsyncConnection, table: Any, ids: set[UUID]) -> set[UUID]:
    return set((await connection.scalars(select(table.c.id).where(table.c.id.in_(ids)))).all())


def _amounts(record: UsageRecord) -> tuple[int, ...]:
    """What a record adds to its rollups: `_COUNTERS`, then `SUMS`."""
    tokens, cost = record.tokens, record.cost
    return (
        1,
        int(record.ended is Ended.ERROR),
        int(record.estimated),
        tokens.input,
        tokens.output,
        tokens.cache_write_5m,
        tokens.cache_write_1h,
        tokens.cache_read,
        tokens.thinking,
        cost.input_nano,
        cost.output_nano,
        cost.cache_write_5m_nano,
        cost.cache_write_1h_nano,
        cost.cache_read_nano,
        cost.total_nano,
    )


async def _roll_up(
    connection: AsyncConnection,
    fresh: Sequence[UsageRecord],
    undone: Sequence[UsageRecord],
    day_of: Callable[[datetime], datetime],
) -> None:
    """Add records to their hour and their day, and take others off: one upsert a bucket, however many they are."""
    buckets: dict[tuple[Any, ...], tuple[int, ...]] = {}
    days: dict[datetime, datetime] = {}  # by quarter of an hour: no zone has finer offsets
    changes = [(record, _amounts(record)) for record in fresh]
    changes += [(record, tuple(map(neg, _amounts(record)))) for record in undone]
    for record, amounts in changes:
        hour = record.admitted_at.replace(minute=0, second=0, microsecond=0)
        quarter = hour.replace(minute=record.admitted_at.minute // 15 * 15)
        day = days.get(quarter) or days.setdefault(quarter, day_of(record.admitted_at))
        for bucket, start in (("hour", hour), ("day", day)):
            key = (bucket, start, record.user_id, record.access_key_id, record.provider, record.model_served)
            sums = buckets.get(key)
            buckets[key] = amounts if sums is None else tuple(map(add, sums, amounts))
    names = ("bucket", "bucket_start", "user_id", "access_key_id", "provider", "model")
    rows = [
        dict(zip(names, key, strict=True)) | dict(zip(_ADDED, sums, strict=True))
        for key, sums in sorted(buckets.items(), key=lambda item: str(item[0]))
    ]
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(usage_aggregates)
    added = {name: usage_aggregates.c[name] + statement.excluded[name] for name in _ADDED}
    await connection.execute(statement.on_conflict_do_update(index_elements=list(names), set_=added), rows)


async def _touch_keys(connection: AsyncConnection, fresh: Sequence[UsageRecord]) -> None:
    """Never backwards: a replayed record may be older than what the key has done since."""
    last: dict[UUID, datetime] = {}
    for record in fresh:
        last[record.access_key_id] = max(record.finished_at, last.get(record.access_key_id, record.finished_at))
    for key, instant in sorted(last.items()):
        older = or_(access_keys.c.last_used_at.is_(None), access_keys.c.last_used_at < instant)
        await connection.execute(update(access_keys).where(access_keys.c.id == key, older).values(last_used_at=instant))
