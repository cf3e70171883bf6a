"""Uploaded price sheets, and ledger rows that are priced anew together with all that is made from them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, and_, bindparam, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.pricing import Priced
from daemon.store.tables import budget_counters, price_sheets, token_usage, usage_aggregates, users

_COSTS = (
    "input_cost_nano_usd",
    "output_cost_nano_usd",
    "cache_write_5m_cost_nano_usd",
    "cache_write_1h_cost_nano_usd",
    "cache_read_cost_nano_usd",
    "cost_nano_usd",
)
_BUCKET = ("bucket", "bucket_start", "user_id", "access_key_id", "provider", "model")
_NANO = Decimal(10) ** 9
_L, _A, _B = token_usage.c, usage_aggregates.c, budget_counters.c


async def active_sheet(connection: AsyncConnection) -> str | None:
    """The document of the uploaded sheet that is in force."""
    found: str | None = await connection.scalar(select(price_sheets.c.document).where(price_sheets.c.is_active))
    return found


async def activate_sheet(connection: AsyncConnection, document: str | None, *, by: str, at: datetime) -> None:
    """Put an uploaded sheet in force, or none."""
    await connection.execute(update(price_sheets).where(price_sheets.c.is_active).values(is_active=False))
    if document is None:
        return
    values = {"document": document, "is_active": True, "uploaded_by": by, "uploaded_at": at}
    identifier = hashlib.sha256(document.encode()).hexdigest()[:32]
    again = update(price_sheets).where(price_sheets.c.sheet_id == identifier).values(values)
    if (await connection.execute(again)).rowcount == 0:
        await connection.execute(insert(price_sheets).values(values | {"sheet_id": identifier}))


@dataclass(frozen=True, slots=True)
class Repricing:
    """A row of the ledger, its new price, and whether it is estimated from now on."""

    row: RowMapping
    priced: Priced
    estimated: bool

    def differences(self) -> dict[str, int]:
        """How much each part of the cost changes."""
        new = _parts(self.priced)
        return {name: new[name] - int(self.row[name]) for name in _COSTS}

    @property
    def changes(self) -> bool:
        """Whether anything is to be written."""
        return any(self.differences().values()) or self.estimated != self.row["estimated"]


async def rows_to_price(
    connection: AsyncConnection,
    *,
    since: datetime,
    until: datetime,
    after: tuple[datetime, int] | None,
    limit: int,
    lock: bool,
) -> Sequence[RowMapping]:
    """Ledger rows that used tokens and were admitted in [since, until), in the order of admission, after a position."""
    tokens = (_L.input_tokens, _L.output_tokens, _L.cache_write_5m_tokens, _L.cache_write_1h_tokens)
    used = or_(*(column > 0 for column in (*tokens, _L.cache_read_tokens)))
    query = select(token_usage).where(_L.admitted_at >= since, _L.admitted_at < until, used)
    if after is not None:
        instant, row = after
        query = query.where(_L.admitted_at >= instant, or_(_L.admitted_at > instant, _L.id > row))
    query = query.order_by(_L.admitted_at, _L.id).limit(limit)
    return (await connection.execute(query.with_for_update() if lock else query)).mappings().all()


async def reprice(
    connection: AsyncConnection,
    repricings: Sequence[Repricing],
    *,
    day_of: Callable[[datetime], datetime],
    counts: Callable[[str], bool],
) -> None:
    """Write new prices, and move rollups and budget counters by exactly the differences.

    Rows without a user or a key any more are not given to this: their rollups cannot be told.
    """
    people = sorted({repricing.row["user_id"] for repricing in repricings}, key=str)
    # Whoever makes a counter from the ledger holds this lock too: it sees all of the new costs or none.
    await connection.execute(select(users.c.id).where(users.c.id.in_(people)).with_for_update(key_share=True))
    values: dict[str, Any] = {name: bindparam(f"n_{name}") for name in _values(repricings[0])}
    statement = update(token_usage).where(_L.id == bindparam("n_row")).values(values)
    rows = [{"n_row": r.row["id"]} | {f"n_{name}": v for name, v in _values(r).items()} for r in repricings]
    await connection.execute(statement, rows)
    await _move_rollups(connection, repricings, day_of)
    await _move_counters(connection, [r for r in repricings if counts(r.row["provider"])], people)


async def _move_rollups(
    connection: AsyncConnection, repricings: Sequence[Repricing], day_of: Callable[[datetime], datetime]
) -> None:
    buckets: dict[tuple[Any, ...], dict[str, int]] = {}
    for repricing in repricings:
        row = repricing.row
        admitted = row["admitted_at"]
        differences = repricing.differences()
        differences["estimated_requests"] = int(repricing.estimated) - int(row["estimated"])
        hour = admitted.replace(minute=0, second=0, microsecond=0)
        for bucket in (("hour", hour), ("day", day_of(admitted))):
            key = (*bucket, row["user_id"], row["access_key_id"], row["provider"], row["model_served"])
            sums = buckets.setdefault(key, dict.fromkeys(differences, 0))
            for name, difference in differences.items():
                sums[name] += difference
    here = and_(*(usage_aggregates.c[name] == bindparam(f"b_{name}") for name in _BUCKET))
    moved = {name: _A[name] + bindparam(f"n_{name}") for name in (*_COSTS, "estimated_requests")}
    ordered = sorted(buckets.items(), key=lambda item: str(item[0]))  # as the ledger's own writer does
    await connection.execute(
        update(usage_aggregates).where(here).values(moved),
        [
            {f"b_{name}": part for name, part in zip(_BUCKET, key, strict=True)}
            | {f"n_{name}": amount for name, amount in sums.items()}
            for key, sums in ordered
        ],
    )


async def _move_counters(connection: AsyncConnection, repricings: Sequence[Repricing], people: Sequence[UUID]) -> None:
    """What is reserved stays: it belongs to requests that are under way."""
    found = (await connection.execute(select(budget_counters).where(_B.user_id.in_(people)))).mappings().all()
    moves = []
    for counter in sorted(found, key=lambda row: str((row["user_id"], row["period"], row["period_start"]))):
        amount = sum(
            repricing.differences()["cost_nano_usd"]
            for repricing in repricings
            if repricing.row["user_id"] == counter["user_id"]
            and counter["period_start"] <= repricing.row["admitted_at"] < counter["period_end"]
        )
        if amount:
            key = {"b_user": counter["user_id"], "b_period": counter["period"], "b_start": counter["period_start"]}
            moves.append(key | {"b_amount": amount})
    here = and_(
        _B.user_id == bindparam("b_user"), _B.period == bindparam("b_period"), _B.period_start == bindparam("b_start")
    )
    if moves:
        moved = update(budget_counters).where(here)
        await connection.execute(moved.values(settled_nano_usd=_B.settled_nano_usd + bindparam("b_amount")), moves)


def _parts(priced: Priced) -> dict[str, int]:
    cost = priced.cost
    parts = (cost.input_nano, cost.output_nano, cost.cache_write_5m_nano, cost.cache_write_1h_nano)
    return dict(zip(_COSTS, (*parts, cost.cache_read_nano, cost.total_nano), strict=True))


def _values(repricing: Repricing) -> dict[str, Any]:
    """The columns of the ledger that a price is in."""
    cost, prices = repricing.priced.cost, repricing.priced.snapshot
    return {
        **_parts(repricing.priced),
        "estimated": repricing.estimated,
        "estimated_cost_usd": cost.total_nano / _NANO,
        "input_cost_usd": cost.input_nano / _NANO,
        "output_cost_usd": cost.output_nano / _NANO,
        "cache_write_cost_usd": (cost.cache_write_5m_nano + cost.cache_write_1h_nano) / _NANO,
        "cache_read_cost_usd": cost.cache_read_nano / _NANO,
        "pricing_sheet_id": prices.sheet_id,
        "pricing_model": prices.model,
        "pricing_region": prices.region,
        "pricing_tier": prices.tier,
        "pricing_effective_date": prices.effective_date.isoformat(),
        "pricing_input_per_million": prices.input,
        "pricing_output_per_million": prices.output,
        "pricing_cache_write_5m_per_million": prices.cache_write_5m,
        "pricing_cache_write_1h_per_million": prices.cache_write_1h,
        "pricing_cache_read_per_million": prices.cache_read,
    }
