"""What tests read back from ledger and rollups, without the queries of reports."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.store.reports import FIGURES
from daemon.store.tables import token_usage, usage_aggregates


async def rows(connection: AsyncConnection) -> list[dict[str, Any]]:
    """The whole ledger, the newest row first."""
    found = await connection.execute(select(token_usage).order_by(token_usage.c.id.desc()))
    return [dict(row) for row in found.mappings()]


async def rollup(connection: AsyncConnection, bucket: str = "hour") -> dict[str, int]:
    """The sums of all rollups of hours, or of days."""
    sums = [func.coalesce(func.sum(usage_aggregates.c[name]), 0).label(name) for name in FIGURES]
    found = await connection.execute(select(*sums).where(usage_aggregates.c.bucket == bucket))
    return {name: int(number) for name, number in found.mappings().one().items()}


async def days(connection: AsyncConnection) -> Sequence[tuple[datetime, int]]:
    """Start and number of requests of every day that has a rollup."""
    table = usage_aggregates.c
    query = select(table.bucket_start, func.sum(table.requests)).where(table.bucket == "day")
    found = await connection.execute(query.group_by(table.bucket_start).order_by(table.bucket_start))
    return [(row[0], int(row[1])) for row in found]
