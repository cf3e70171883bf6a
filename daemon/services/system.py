"""The daemon about itself."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, case, func, select, text

from daemon.contract.system import StatsRow, SystemStats, SystemStatus
from daemon.contract.usage import usd
from daemon.core.record import Ended
from daemon.store.engine import OUTAGES, Store
from daemon.store.tables import token_usage, users


class System:
    """Version, clock, store and the facts that running parts report."""

    def __init__(
        self, store: Store, *, version: str, now: Callable[[], datetime], facts: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._store = store
        self._version = version
        self._now = now
        self._facts = facts

    async def status(self) -> SystemStatus:
        """How things stand; a store that is away is an answer, not an error."""
        try:
            async with self._store.read() as connection:
                revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        except OUTAGES:
            revision = None
        return SystemStatus(
            version=self._version,
            time=self._now(),
            database_ok=revision is not None,
            schema_revision=revision,
            facts=dict(self._facts()),
        )

    async def stats(self, minutes: int) -> SystemStats:
        """The last minutes, by user, model and provider: the dearest first, twenty of each."""
        now = self._now()
        async with self._store.read() as connection:
            rows = (await connection.execute(_since(now - timedelta(minutes=minutes)))).all()
        facts = self._facts()
        total = _sum("all", rows)
        return SystemStats(
            time=now,
            version=self._version,
            window_seconds=minutes * 60,
            requests_in_flight=facts["requests_in_flight"],
            requests_per_minute=round(total.requests / minutes, 2),
            circuits_open=facts["circuits_open"],
            total=total,
            by_user=_grouped(rows, "user"),
            by_model=_grouped(rows, "model"),
            by_provider=_grouped(rows, "provider"),
        )


_FIGURES = ("requests", "errors", "fallbacks", "input_tokens", "output_tokens", "cost_nano_usd")
_MOST = 20


def _since(start: datetime) -> Select[Any]:
    """One pass over the ledger's newest rows; its index on `admitted_at` serves it."""
    ledger = token_usage.c
    prompt = (
        ledger.input_tokens + ledger.cache_read_tokens + ledger.cache_write_5m_tokens + ledger.cache_write_1h_tokens
    )
    return (
        select(
            func.coalesce(users.c.name, "(erased)").label("user"),
            ledger.model_served.label("model"),
            ledger.provider,
            func.count().label("requests"),
            func.sum(case((ledger.ended == Ended.ERROR.value, 1), else_=0)).label("errors"),
            func.sum(case((ledger.fallback_reason.is_not(None), 1), else_=0)).label("fallbacks"),
            func.sum(prompt).label("input_tokens"),
            func.sum(ledger.output_tokens).label("output_tokens"),
            func.sum(ledger.cost_nano_usd).label("cost_nano_usd"),
        )
        .select_from(token_usage.outerjoin(users, users.c.id == ledger.user_id))
        .where(ledger.admitted_at >= start)
        .group_by(users.c.name, ledger.model_served, ledger.provider)
    )


def _grouped(rows: Sequence[Row[Any]], by: str) -> list[StatsRow]:
    groups: dict[str, list[Row[Any]]] = {}
    for row in rows:
        groups.setdefault(getattr(row, by), []).append(row)
    found = [_sum(name, members) for name, members in groups.items()]
    return sorted(found, key=lambda row: (-row.cost_nano_usd, -row.requests, row.name))[:_MOST]


def _sum(name: str, rows: Sequence[Row[Any]]) -> StatsRow:
    sums = {figure: sum(int(getattr(row, figure)) for row in rows) for figure in _FIGURES}
    return StatsRow(name=name, **sums, cost_usd=usd(sums["cost_nano_usd"]))
