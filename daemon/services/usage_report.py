"""One report: the sums of a range by group, by bucket, and by both for the largest groups."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.usage import Bucket, Ranking, UsageSeries
from daemon.services.errors import Invalid
from daemon.services.usage_figures import SERIES, Bounds, folded, largest, series_list, total
from daemon.services.usage_range import Cover, Ranges
from daemon.store import reports, rollups
from daemon.store.engine import Store
from daemon.store.reports import FIGURES, Dimension, Key, Only, Table

_FEW = ("model", "provider")  # so few groups that one query tells all their buckets


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: `groups` is user, key, team, model or provider; `most` is how many groups get a series.

    `only_largest`: the figures of other groups are not needed either.
    """

    since: datetime
    until: datetime
    only: Only
    groups: str | None
    bucket: Bucket | None
    by: Ranking
    most: int
    only_largest: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """The answer. Tables have the group, the bucket, or both as their key."""

    cover: Cover
    bounds: Bounds
    groups: Table
    times: Table
    series: Table
    order: list[Any]

    @property
    def totals(self) -> list[int]:
        return total(self.groups.rows.values())

    def series_of(self, groups: list[Any], label: Callable[[Any], dict[str, Any]]) -> list[UsageSeries]:
        """Series of some groups, and of all the others together."""
        times = folded(self.times, lambda key: key, SERIES)
        return series_list(groups, self.series, times, self.bounds, label)


@asynccontextmanager
async def report_connection(store: Store) -> AsyncIterator[AsyncConnection]:
    """A connection for the queries of one report.

    Raises:
        Invalid: they take too long.
    """
    try:
        async with reports.reading(store) as connection:
            yield connection
    except reports.TooSlow:
        raise Invalid("adding this up takes too long: ask for a shorter range", field="since") from None


async def build(connection: AsyncConnection, ranges: Ranges, question: Question) -> Report:
    """Ask the store. With many groups, buckets are asked for only of the largest ones."""
    bucket, by = question.bucket, question.by
    cover = ranges.cover(question.since, question.until, await rollups.marks(connection), bucket)
    bounds = ranges.buckets(cover.since, cover.until, bucket) if bucket else []
    member = await _members(connection, ranges, question)
    few = question.groups is None or question.groups in _FEW or bucket is None
    ask = _at_once if few and not question.only_largest else _in_steps
    groups, times, series = await ask(connection, cover, question, member)
    order = largest(groups, by) if question.groups else []
    return Report(cover, bounds, groups, times, series, order)


async def _at_once(
    connection: AsyncConnection, cover: Cover, question: Question, member: Callable[[Any], Any]
) -> tuple[Table, Table, Table]:
    dimensions = [*_dimension(question), *_time(question)]
    raw = await reports.sums(connection, cover.pieces, by=dimensions, only=question.only)
    width = len(_dimension(question))
    table = folded(raw, lambda key: tuple(member(part) for part in key))
    groups = folded(table, lambda key: key[:width])
    times = folded(table, lambda key: key[width:])
    return groups, times, folded(table, lambda key: key, SERIES)


async def _in_steps(
    connection: AsyncConnection, cover: Cover, question: Question, member: Callable[[Any], Any]
) -> tuple[Table, Table, Table]:
    dimension, time = _dimension(question), _time(question)
    only, pieces = question.only, cover.pieces

    def named(key: Key) -> Key:
        return tuple(member(part) for part in key)

    columns = SERIES if question.only_largest else FIGURES
    raw = await reports.sums(connection, pieces, by=dimension, only=only, names=columns)
    groups = folded(raw, named)
    shown = set(largest(groups, question.by, question.most))
    members = tuple(part for (part,) in raw.rows if part is not None and member(part) in shown)
    narrowed = replace(only, among=(dimension[0], members))
    if question.only_largest:
        groups = folded(await reports.sums(connection, pieces, by=dimension, only=narrowed), named)
    if not time:
        return groups, Table(FIGURES), Table(SERIES)
    times = folded(await reports.sums(connection, pieces, by=time, only=only, names=columns), named)
    series = await reports.sums(connection, pieces, by=[*dimension, *time], only=narrowed, names=SERIES)
    return groups, times, folded(series, named)


async def _members(connection: AsyncConnection, ranges: Ranges, question: Question) -> Callable[[Any], Any]:
    """What a member of a key is called in the report: users become teams, starts of rollups the report's buckets."""
    teams = await reports.teams(connection) if question.groups == "team" else None
    start_of = ranges.bucket_of(question.bucket) if question.bucket else None

    def member(part: Any) -> Any:
        if isinstance(part, datetime) and start_of is not None:
            return start_of(part)
        if isinstance(part, UUID):
            known = None if part == rollups.NOBODY else part
            return known if teams is None or known is None else teams.get(known)
        return part

    return member


def _dimension(question: Question) -> list[Dimension]:
    dimensions: dict[str | None, list[Dimension]] = {
        None: [],
        "team": ["user"],
        "user": ["user"],
        "key": ["key"],
        "model": ["model"],
        "provider": ["provider"],
    }
    return dimensions[question.groups]


def _time(question: Question) -> list[Dimension]:
    if question.bucket is None:
        return []
    return ["minute"] if question.bucket == "minute" else ["bucket"]
