"""The ledger and its rollups: appended together.

Rows go in once, whatever is replayed: the request id is unique, and only rows that were really inserted move the
rollups, in the same transaction.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.record import Attempt, Ended, UsageRecord
from daemon.store import budgets
from daemon.store.tables import access_keys, token_usage, usage_aggregates, users

_NANO = Decimal(10) ** 9
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
_ATTEMPT = tuple(field.name for field in fields(Attempt))
_COUNTERS = ("requests", "errors", "estimated_requests")


async def append(
    connection: AsyncConnection,
    records: Sequence[UsageRecord],
    *,
    day_of: Callable[[datetime], datetime],
    counts: Callable[[str], bool] = lambda provider: True,
) -> int:
    """Insert records that are not there yet and move rollups and budget counters by exactly those.

    `day_of` gives the instant at which the day of an instant began, in the budget's zone; `counts` says whether the
    cost of a provider counts against budgets. Returns how many were inserted.
    """
    first: dict[str, UsageRecord] = {}
    for record in records:  # in the order of arrival, which becomes that of the ids
        first.setdefault(record.request_id, record)
    unique = list(first.values())
    known_users = await _existing(connection, users, {record.user_id for record in unique})
    known_keys = await _existing(connection, access_keys, {record.access_key_id for record in unique})
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    inserted: set[str] = set()
    if unique:
        rows = [_row(record, known_users, known_keys) for record in unique]
        statement = insert(token_usage).on_conflict_do_nothing(index_elements=["request_id"])
        inserted.update((await connection.scalars(statement.returning(token_usage.c.request_id), rows)).all())
    fresh = [record for record in unique if record.request_id in inserted]
    if fresh:
        await _roll_up(connection, fresh, day_of)
        await _touch_keys(connection, fresh)
    if unique:
        await budgets.settle(connection, list(first), fresh, counts=counts)
    return len(fresh)


async def _existing(connection: AsyncConnection, table: Any, ids: set[UUID]) -> set[UUID]:
    return set((await connection.scalars(select(table.c.id).where(table.c.id.in_(ids)))).all())


def _dollars(nano: int) -> Decimal:
    return Decimal(nano) / _NANO


def _row(record: UsageRecord, known_users: set[UUID], known_keys: set[UUID]) -> dict[str, Any]:
    cost, price = record.cost, record.price
    return {
        "request_id": record.request_id,
        "access_key_id": record.access_key_id if record.access_key_id in known_keys else None,
        "user_id": record.user_id if record.user_id in known_users else None,
        "provider": record.provider,
        "model_requested": record.model_requested,
        "model_served": record.model_served,
        "is_stream": record.stream,
        "status": record.status,
        "ended": record.ended.value,
        "estimated": record.estimated,
        "suspect": record.suspect,
        **_sums(record),
        "estimated_cost_usd": _dollars(cost.total_nano),
        "input_cost_usd": _dollars(cost.input_nano),
        "output_cost_usd": _dollars(cost.output_nano),
        "cache_write_cost_usd": _dollars(cost.cache_write_5m_nano + cost.cache_write_1h_nano),
        "cache_read_cost_usd": _dollars(cost.cache_read_nano),
        "pricing_sheet_id": price.sheet_id if price else None,
        "pricing_model": price.model if price else None,
        "pricing_region": price.region if price else None,
        "pricing_tier": price.tier if price else None,
        "pricing_effective_date": price.effective_date.isoformat() if price else None,
        "pricing_input_per_million": price.input if price else None,
        "pricing_output_per_million": price.output if price else None,
        "pricing_cache_write_5m_per_million": price.cache_write_5m if price else None,
        "pricing_cache_write_1h_per_million": price.cache_write_1h if price else None,
        "pricing_cache_read_per_million": price.cache_read if price else None,
        "attempts": [{name: getattr(attempt, name) for name in _ATTEMPT} for attempt in record.attempts],
        "fallback_reason": record.fallback_reason,
        "error_type": record.error_type,
        "upstream_request_id": record.upstream_request_id,
        "session_id": record.session_id,
        "agent_id": record.agent_id,
        "parent_agent_id": record.parent_agent_id,
        "request_class": record.request_class,
        "prompt_id": record.prompt_id,
        "first_byte_ms": record.first_byte_ms,
        "duration_ms": record.duration_ms,
        "admitted_at": record.admitted_at,
        "finished_at": record.finished_at,
    }


def _sums(record: UsageRecord) -> dict[str, int]:
    tokens, cost = record.tokens, record.cost
    values = (
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
    return dict(zip(SUMS, values, strict=True))


async def _roll_up(
    connection: AsyncConnection, fresh: Sequence[UsageRecord], day_of: Callable[[datetime], datetime]
) -> None:
    """Add records to their hour and their day: one upsert a bucket, however many records fall into it."""
    buckets: dict[tuple[Any, ...], dict[str, int]] = {}
    for record in fresh:
        amounts = _sums(record) | {
            "requests": 1,
            "errors": int(record.ended is Ended.ERROR),
            "estimated_requests": int(record.estimated),
        }
        hour = record.admitted_at.replace(minute=0, second=0, microsecond=0)
        for bucket, start in (("hour", hour), ("day", day_of(record.admitted_at))):
            key = (bucket, start, record.user_id, record.access_key_id, record.provider, record.model_served)
            sums = buckets.setdefault(key, dict.fromkeys(amounts, 0))
            for name, amount in amounts.items():
                sums[name] += amount
    names = ("bucket", "bucket_start", "user_id", "access_key_id", "provider", "model")
    rows = [
        dict(zip(names, key, strict=True)) | sums
        for key, sums in sorted(buckets.items(), key=lambda item: str(item[0]))
    ]
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(usage_aggregates)
    added = {name: usage_aggregates.c[name] + statement.excluded[name] for name in (*_COUNTERS, *SUMS)}
    await connection.execute(statement.on_conflict_do_update(index_elements=list(names), set_=added), rows)


async def _touch_keys(connection: AsyncConnection, fresh: Sequence[UsageRecord]) -> None:
    """Never backwards: a replayed record may be older than what the key has done since."""
    last: dict[UUID, datetime] = {}
    for record in fresh:
        last[record.access_key_id] = max(record.finished_at, last.get(record.access_key_id, record.finished_at))
    for key, instant in sorted(last.items()):
        older = or_(access_keys.c.last_used_at.is_(None), access_keys.c.last_used_at < instant)
        await connection.execute(update(access_keys).where(access_keys.c.id == key, older).values(last_used_at=instant))
