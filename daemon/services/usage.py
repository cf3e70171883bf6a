"""Usage and cost for people: totals, groups, buckets and series, records of the ledger, and the prompt cache."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.common import Page
from daemon.contract.usage import (
    Bucket,
    CacheGroupBy,
    CacheReport,
    GroupBy,
    Ranking,
    TopUsers,
    UsageEntry,
    UsageGroup,
    UsageSummary,
)
from daemon.services import cursors
from daemon.services.errors import Invalid
from daemon.services.usage_cache import cache_group
from daemon.services.usage_figures import answer, bucket_list, figures, label_of, largest, record, total
from daemon.services.usage_range import LONGEST_LEDGER, Cover, Ranges, Span
from daemon.services.usage_report import Question, build, report_connection
from daemon.store import ledger, reports, rollups
from daemon.store.engine import Store
from daemon.store.reports import Dimension, Names, Only

_MOST_SERIES = 8
_MOST_SESSIONS = 100


class Usage:
    """Reports, exact to the nano-dollar."""

    def __init__(self, store: Store, ranges: Ranges) -> None:
        self._store = store
        self._ranges = ranges

    async def summary(
        self, span: Span, only: Only, *, group_by: GroupBy | None = None, bucket: Bucket | None = None
    ) -> UsageSummary:
        """Totals to the nano-dollar, with `group_by` their groups, with `bucket` their buckets and the largest groups'
        series."""
        if group_by == "session":
            return await self._sessions(span, only, bucket)
        by_day = group_by == "day"
        bucket = "day" if by_day and bucket is None else bucket
        if by_day and bucket != "day":
            raise Invalid("is day when grouped by day", field="bucket")
        since, until = self._ranges.bounds(span)
        groups = None if by_day else group_by
        question = Question(since, until, only, groups, bucket, "cost", _MOST_SERIES)
        async with report_connection(self._store) as connection:
            report = await build(connection, self._ranges, question)
            label = await self._labels(connection, groups, report.order)
        items = [UsageGroup(**label(group), **answer(report.groups.rows[(group,)])) for group in report.order]
        filled = bucket_list(report.times, report.bounds)
        if by_day:
            items = [UsageGroup(group=b.start.isoformat(), **b.model_dump(exclude={"start", "end"})) for b in filled]
        return UsageSummary(
            **self._covered(report.cover),
            group_by=group_by,
            bucket=bucket,
            totals=figures(report.totals),
            items=items,
            buckets=filled,
            series=report.series_of(report.order[:_MOST_SERIES], label) if groups and bucket else [],
        )

    async def top_users(
        self, span: Span, *, by: Ranking, limit: int, only: Only | None = None, bucket: Bucket | None = None
    ) -> TopUsers:
        """The users with the largest cost or the most tokens, with `bucket` over time."""
        since, until = self._ranges.bounds(span)
        question = Question(since, until, only or Only(), "user", bucket, by, limit, only_largest=True)
        async with report_connection(self._store) as connection:
            report = await build(connection, self._ranges, question)
            shown = report.order[:limit]
            label = await self._labels(connection, "user", shown)
        return TopUsers(
            **self._covered(report.cover),
            by=by,
            bucket=bucket,
            items=[UsageGroup(**label(user), **answer(report.groups.rows[(user,)])) for user in shown],
            series=report.series_of(shown, label) if bucket else [],
        )

    async def cache(self, span: Span, only: Only, *, group_by: CacheGroupBy) -> CacheReport:
        """How well the prompt cache works, and what its misses cost."""
        since, until = self._ranges.bounds(span)
        dimension: Dimension = "session" if group_by == "session" else "model"
        async with report_connection(self._store) as connection:
            marks = await rollups.marks(connection)
            if group_by == "session":
                cover = self._ledger_cover(since, until, marks)
                table = await reports.sums(connection, cover.pieces, by=(dimension,), only=only, most=_MOST_SESSIONS)
                totals = await self._totals(connection, cover, marks, only)
            else:
                cover = self._ranges.cover(since, until, marks, None)
                table = await reports.sums(connection, cover.pieces, by=(dimension,), only=only)
                totals = table.rows.values()
        groups = [cache_group(label_of(key[0]), numbers) for key, numbers in table.rows.items()]
        groups.sort(key=lambda group: (-group.misses_cost_nano_usd, group.group))
        return CacheReport(
            **self._covered(cover), group_by=group_by, totals=cache_group("", total(totals)), items=groups
        )

    async def list_records(
        self,
        span: Span,
        only: Only,
        *,
        limit: int,
        cursor: str | None,
        request_id: str | None = None,
        errors_only: bool = False,
    ) -> Page[UsageEntry]:
        """Rows of the ledger, newest first; all of it when the span is empty."""
        since, until = (None, None) if span == Span() else self._ranges.bounds(span)
        before = cursors.decode_number(cursor)
        async with report_connection(self._store) as connection:
            rows = await ledger.records(
                connection,
                limit=limit + 1,
                only=only,
                before_id=before,
                request_id=request_id,
                errors_only=errors_only,
                since=since,
                until=until,
            )
            named = await Names().added(connection, rows[:limit])
        more = cursors.encode(rows[limit - 1]["id"]) if len(rows) > limit else None
        return Page(items=[UsageEntry(**record(row)) for row in named], next_cursor=more)

    async def _sessions(self, span: Span, only: Only, bucket: Bucket | None) -> UsageSummary:
        """The most expensive sessions: only the ledger knows them."""
        if bucket is not None:
            raise Invalid("there are no buckets by session", field="bucket")
        since, until = self._ranges.bounds(span)
        async with report_connection(self._store) as connection:
            marks = await rollups.marks(connection)
            cover = self._ledger_cover(since, until, marks)
            groups = await reports.sums(connection, cover.pieces, by=("session",), only=only, most=_MOST_SESSIONS)
            totals = await self._totals(connection, cover, marks, only)
        return UsageSummary(
            **self._covered(cover),
            group_by="session",
            bucket=None,
            totals=figures(total(totals)),
            items=[UsageGroup(group=label_of(g), **answer(groups.rows[(g,)])) for g in largest(groups, "cost")],
            buckets=[],
            series=[],
        )

    async def _totals(
        self, connection: AsyncConnection, cover: Cover, marks: rollups.Marks, only: Only
    ) -> Iterable[list[int]]:
        """The sums of a range of the ledger: from rollups where they say exactly the same, which is faster."""
        whole = self._ranges.cover(cover.since, cover.until, marks, None)
        pieces = cover.pieces if whole.rounded else whole.pieces
        return (await reports.sums(connection, pieces, only=only)).rows.values()

    def _ledger_cover(self, since: datetime, until: datetime, marks: rollups.Marks) -> Cover:
        if until - since > LONGEST_LEDGER:
            raise Invalid(f"by session the range must not be longer than {LONGEST_LEDGER.days} days", field="since")
        return self._ranges.cover_with_ledger(since, until, marks)

    def _covered(self, cover: Cover) -> dict[str, Any]:
        return {
            "since": cover.since,
            "until": cover.until,
            "timezone": self._ranges.zone.key,
            "rounded": cover.rounded,
        }

    async def _labels(
        self, connection: AsyncConnection, group_by: str | None, groups: list[Any]
    ) -> Callable[[Any], dict[str, Any]]:
        names = await reports.names(connection, group_by, [group for group in groups if group is not None])
        return lambda group: {"group": label_of(group), "name": names.get(group)}
