"""Usage and cost for people: totals from the rollups, records from the ledger."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.common import Page
from daemon.contract.usage import GroupBy, Period, Ranking, TopUsers, UsageEntry, UsageFigures, UsageGroup, UsageSummary
from daemon.contract.usage import usd as dollars
from daemon.core.periods import day_start, period_bounds
from daemon.services import cursors
from daemon.services.errors import Invalid
from daemon.store import usage as ledger
from daemon.store.engine import Store
from daemon.store.tables import access_keys, users

_LONGEST = timedelta(days=1100)
_KINDS: Mapping[Period, Any] = {"day": "daily", "week": "weekly", "month": "monthly"}
_TOKENS = ("input_tokens", "output_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "cache_read_tokens")
_NUMBERS = ("requests", "errors", "estimated_requests", *_TOKENS, "thinking_tokens", "cost_nano_usd")


@dataclass(frozen=True, slots=True)
class Span:
    """What a report covers: a named period, or instants; nothing means this month."""

    since: datetime | None = None
    until: datetime | None = None
    period: Period | None = None


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Whose usage, of what."""

    user_id: UUID | None = None
    access_key_id: UUID | None = None
    provider: str | None = None
    model: str | None = None

    def as_arguments(self) -> dict[str, Any]:
        return {
            "user_id": self.user_id,
            "access_key_id": self.access_key_id,
            "provider": self.provider,
            "model": self.model,
        }


class Usage:
    """Reports. Days begin in `zone`."""

    def __init__(self, store: Store, *, zone: ZoneInfo, now: Callable[[], datetime]) -> None:
        self._store = store
        self._zone = zone
        self._now = now

    async def summary(self, span: Span, only: UsageFilter, *, group_by: GroupBy | None) -> UsageSummary:
        """Totals and, with `group_by`, their parts. The range is widened to whole hours, by day to whole days."""
        since, until = self._bounds(span)
        since, until = self._widened(since, until, by_day=group_by == "day")
        filters = ledger.matching(**only.as_arguments())
        async with self._store.read() as connection:
            rows = await ledger.totals(connection, since=since, until=until, group_by=group_by, filters=filters)
            groups = await self._groups(connection, rows, group_by) if group_by else []
        figures = [_numbers(dict(row)) for row in rows]
        totals = {name: sum(figure[name] for figure in figures) for name in _NUMBERS}
        return UsageSummary(since=since, until=until, group_by=group_by, totals=_figures(totals), items=groups)

    async def top_users(self, span: Span, *, by: Ranking, limit: int) -> TopUsers:
        """The users with the largest cost or the most tokens."""
        summary = await self.summary(span, UsageFilter(), group_by="user")
        largest = sorted(summary.items, key=lambda item: (-_rank(item, by), item.group))[:limit]
        return TopUsers(since=summary.since, until=summary.until, by=by, items=largest)

    async def list_records(
        self,
        span: Span,
        only: UsageFilter,
        *,
        limit: int,
        cursor: str | None,
        request_id: str | None = None,
        session_id: str | None = None,
        errors_only: bool = False,
    ) -> Page[UsageEntry]:
        """Rows of the ledger, newest first; all of it when the span is empty."""
        since, until = (None, None) if span == Span() else self._bounds(span)
        async with self._store.read() as connection:
            rows = await ledger.records(
                connection,
                limit=limit + 1,
                before_id=cursors.decode_number(cursor),
                request_id=request_id,
                session_id=session_id,
                errors_only=errors_only,
                since=since,
                until=until,
                **only.as_arguments(),
            )
        more = cursors.encode(rows[limit - 1]["id"]) if len(rows) > limit else None
        return Page(items=[_entry(dict(row)) for row in rows[:limit]], next_cursor=more)

    def _bounds(self, span: Span) -> tuple[datetime, datetime]:
        if span.period is not None and (span.since or span.until):
            raise Invalid("give either a period or instants", field="period")
        if span.until is not None and span.since is None:
            raise Invalid("is needed with until", field="since")
        if span.since is None:
            return period_bounds(self._now(), _KINDS[span.period or "month"], self._zone)
        until = span.until or self._now() + timedelta(microseconds=1)
        if until <= span.since:
            raise Invalid("must be later than since", field="until")
        if until - span.since > _LONGEST:
            raise Invalid(f"the range must not be longer than {_LONGEST.days} days", field="since")
        return span.since, until

    def _widened(self, since: datetime, until: datetime, *, by_day: bool) -> tuple[datetime, datetime]:
        """Rollups know whole hours and whole days: say which ones were added up."""
        if by_day:
            last = day_start(until - timedelta(microseconds=1), self._zone)
            return day_start(since, self._zone), day_start(last + timedelta(hours=36), self._zone)
        whole = until.replace(minute=0, second=0, microsecond=0)
        end = whole if whole == until else whole + timedelta(hours=1)
        return since.replace(minute=0, second=0, microsecond=0), end

    async def _groups(self, connection: AsyncConnection, rows: Any, group_by: GroupBy) -> list[UsageGroup]:
        names: dict[UUID, str] = {}
        if group_by in ("user", "key"):
            table = users if group_by == "user" else access_keys
            # deleted ones too: a report about last month names who has left since
            ids = [row["group"] for row in rows]
            known = await connection.execute(select(table.c.id, table.c.name).where(table.c.id.in_(ids)))
            names = {row.id: row.name for row in known}
        return [
            UsageGroup(group=_label(row["group"]), name=names.get(row["group"]), **_figures(_numbers(row)).model_dump())
            for row in rows
        ]


def _label(group: object) -> str:
    return group.isoformat() if isinstance(group, datetime) else str(group)


def _numbers(row: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(row[name]) for name in _NUMBERS}


def _figures(numbers: dict[str, int]) -> UsageFigures:
    return UsageFigures.model_validate(numbers | {"cost_usd": dollars(numbers["cost_nano_usd"])})


def _rank(item: UsageGroup, by: Ranking) -> int:
    return item.cost_nano_usd if by == "cost" else sum(int(getattr(item, name)) for name in _TOKENS)


def _entry(row: Mapping[str, Any]) -> UsageEntry:
    return UsageEntry.model_validate({**row} | {"cost_usd": dollars(row["cost_nano_usd"])})
