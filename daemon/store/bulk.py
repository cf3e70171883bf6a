"""Ledger rows past SQLAlchemy's types, which would cost more than all else that is done for a request.

On PostgreSQL a batch is one statement with one parameter, a JSON array that the database takes apart; on SQLite it is
the driver's own `executemany`. The values are what SQLAlchemy would have written, so that rows can be read through the
table as ever; a test holds the two forms together.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from typing import Any
from uuid import UUID

import orjson
from cachetools import LRUCache
from sqlalchemy import Column, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.record import PriceSnapshot, UsageRecord
from daemon.store.tables import token_usage

_COLUMNS: tuple[Column[Any], ...] = tuple(column for column in token_usage.columns if column.name != "id")
_MICRO = Decimal("0.000001")
_prices: LRUCache[tuple[str, ...], tuple[str | None, ...]] = LRUCache(1_000)


async def insert_records(
    connection: AsyncConnection, records: Sequence[UsageRecord], known_users: set[UUID], known_keys: set[UUID]
) -> set[str]:
    """Insert records that are not there yet, in their order; returns the request ids of those that were not."""
    if connection.dialect.name == "postgresql":
        rows = [_row(record, known_users, known_keys, _iso, record.attempts) for record in records]
        document = orjson.dumps(rows).decode()
        return set((await connection.exec_driver_sql(_postgres_statement(), (document,))).scalars())
    # SQLite has one writer, and this transaction is it: what is not there now is not there when the rows go in.
    ids = [record.request_id for record in records]
    known = set(await connection.scalars(select(token_usage.c.request_id).where(token_usage.c.request_id.in_(ids))))
    fresh = [record for record in records if record.request_id not in known]
    if fresh:
        attempts = [orjson.dumps(record.attempts).decode() for record in fresh]
        pairs = zip(fresh, attempts, strict=True)
        tuples = [tuple(_row(record, known_users, known_keys, _sqlite_instant, tried)) for record, tried in pairs]
        await connection.exec_driver_sql(_sqlite_statement(), tuples)
    return {record.request_id for record in fresh}


@cache
def _sqlite_statement() -> str:
    names = ", ".join(column.name for column in _COLUMNS)
    marks = ", ".join("?" * len(_COLUMNS))
    return f"INSERT INTO token_usage ({names}) VALUES ({marks})"  # noqa: S608 - our own names


@cache
def _postgres_statement() -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    names = ", ".join(column.name for column in _COLUMNS)
    values = ", ".join(
        f"(v -> {number})" if column.name == "attempts" else f"(v ->> {number})::{column.type.compile(dialect)}"
        for number, column in enumerate(_COLUMNS)
    )
    return (
        f"INSERT INTO token_usage ({names}) SELECT {values}"  # noqa: S608 - our own names
        " FROM jsonb_array_elements($1::text::jsonb) WITH ORDINALITY AS r (v, n) ORDER BY n"
        " ON CONFLICT (request_id) DO NOTHING RETURNING request_id"
    )


def _row(
    record: UsageRecord,
    known_users: set[UUID],
    known_keys: set[UUID],
    instant: Callable[[datetime], str],
    attempts: object,
) -> list[Any]:
    """The values of `_COLUMNS`, in their order."""
    tokens, cost, price = record.tokens, record.cost, record.price
    return [
        record.request_id,
        record.access_key_id.hex if record.access_key_id in known_keys else None,
        record.user_id.hex if record.user_id in known_users else None,
        record.provider,
        record.model_requested,
        record.model_served,
        record.stream,
        record.status,
        record.ended.value,
        record.estimated,
        record.suspect,
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
        _dollars(cost.total_nano),
        _dollars(cost.input_nano),
        _dollars(cost.output_nano),
        _dollars(cost.cache_write_5m_nano + cost.cache_write_1h_nano),
        _dollars(cost.cache_read_nano),
        *(_price(price) if price else (None,) * 10),
        attempts,
        record.fallback_reason,
        record.error_type,
        record.upstream_request_id,
        record.session_id,
        record.agent_id,
        record.parent_agent_id,
        record.request_class,
        record.prompt_id,
        record.first_byte_ms,
        record.duration_ms,
        instant(record.admitted_at),
        instant(record.finished_at),
    ]


def _price(price: PriceSnapshot) -> tuple[str | None, ...]:
    key = (price.sheet_id, price.provider, price.region, price.model, price.tier, str(price.input))
    known = _prices.get(key)
    if known is None:
        rates = (price.input, price.output, price.cache_write_5m, price.cache_write_1h, price.cache_read)
        known = _prices[key] = (
            price.sheet_id,
            price.model,
            price.region,
            price.tier,
            price.effective_date.isoformat(),
            *(str(rate.quantize(_MICRO, ROUND_HALF_UP)) for rate in rates),
        )
    return known


def _dollars(nano: int) -> str:
    """Dollars with six decimals, rounded half up; costs are never negative."""
    micro = (nano + 500) // 1_000
    return f"{micro // 1_000_000}.{micro % 1_000_000:06d}"


def _iso(instant: datetime) -> str:
    return instant.isoformat()


def _sqlite_instant(instant: datetime) -> str:
    """As SQLAlchemy writes it: without a zone, always with microseconds."""
    return instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
