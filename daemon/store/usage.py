"""The ledger and its rollups: appended together, read apart.

Rows go in once, whatever is replayed: the request id is unique, and only rows that were really inserted move the
rollups, in the same transaction.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, RowMapping, Select, and_, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.record import Attempt, Ended, UsageRecord
from daemon.store import budgets
from daemon.store.tables import access_keys, token_usage, usage_aggregates, users

GroupBy = Literal["user", "model", "provider", "key", "day", "hour"]
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
_GROUPS: dict[GroupBy, ColumnElement[Any]] = {
    "user": usage_aggregates.c.user_id,
    "key": usage_aggregates.c.access_key_id,
    "model": usage_aggregates.c.model,
    "provider": usage_aggregates.c.provider,
    "day": usage_aggregates.c.bucket_start,
    "hour": usage_aggregates.c.bucket_start,
}


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


async def totals(
    connection: AsyncConnection,
    *,
    since: datetime,
    until: datetime,
    group_by: GroupBy | None = None,
    filters: Sequence[ColumnElement[bool]] = (),
) -> list[RowMapping]:
    """Sums over [since, until), one row a group (column `group`), or one row for all. Whole hours count."""
    bucket = "day" if group_by == "day" else "hour"
    columns = [func.coalesce(func.sum(usage_aggregates.c[name]), 0).label(name) for name in (*_COUNTERS, *SUMS)]
    group = _GROUPS[group_by] if group_by else None
    query: Select[Any] = select(*([group.label("group")] if group is not None else []), *columns).where(
        usage_aggregates.c.bucket == bucket,
        usage_aggregates.c.bucket_start >= since,
        usage_aggregates.c.bucket_start < until,
        *filters,
    )
    if group is not None:
        query = query.group_by(group).order_by(group if bucket == "day" or group_by == "hour" else columns[-1].desc())
    return list((await connection.execute(query)).mappings())


def matching(
    *,
    user_id: UUID | None = None,
    access_key_id: UUID | None = None,
    provider: str | None = None,
    model: str | None = None,
) -> list[ColumnElement[bool]]:
    """Filters for `totals`."""
    table = usage_aggregates.c
    wanted = (
        (table.user_id, user_id),
        (table.access_key_id, access_key_id),
        (table.provider, provider),
        (table.model, model),
    )
    return [column == value for column, value in wanted if value is not None]


async def spent(connection: AsyncConnection, *, user_id: UUID, since: datetime, until: datetime) -> int:
    """Nano-dollars of one user in [since, until), from the daily rollups."""
    query = select(func.coalesce(func.sum(usage_aggregates.c.cost_nano_usd), 0)).where(
        usage_aggregates.c.bucket == "day",
        usage_aggregates.c.bucket_start >= since,
        usage_aggregates.c.bucket_start < until,
        usage_aggregates.c.user_id == user_id,
    )
    return int((await connection.scalar(query)) or 0)


async def records(
    connection: AsyncConnection,
    *,
    limit: int,
    before_id: int | None = None,
    user_id: UUID | None = None,
    access_key_id: UUID | None = None,
    provider: str | None = None,
    model: str | None = None,
    request_id: str | None = None,
    session_id: str | None = None,
    errors_only: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[RowMapping]:
    """Ledger rows, newest first, below the row `before_id`."""
    table = token_usage.c
    wanted = {
        table.user_id: user_id,
        table.access_key_id: access_key_id,
        table.provider: provider,
        table.model_served: model,
        table.request_id: request_id,
        table.session_id: session_id,
    }
    conditions = [column == value for column, value in wanted.items() if value is not None]
    if before_id is not None:
        conditions.append(table.id < before_id)
    if errors_only:
        conditions.append(table.ended != Ended.FINISHED.value)
    if since is not None:
        conditions.append(table.admitted_at >= since)
    if until is not None:
        conditions.append(table.admitted_at < until)
    query = select(token_usage).where(and_(True, *conditions)).order_by(table.id.desc()).limit(limit)
    return list((await connection.execute(query)).mappings())


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
