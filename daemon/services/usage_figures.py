"""Figures of reports: from sums to what is answered."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from daemon.contract.usage import Ranking, SeriesPoint, UsageBucket, UsageFigures, UsageSeries, usd
from daemon.services import cursors
from daemon.store.reports import FIGURES, Key, Table

TOKENS = ("input_tokens", "output_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "cache_read_tokens")
SERIES = ("requests", "cost_nano_usd", *TOKENS)
_DOLLARS = {
    "input_cost_usd": ("input_cost_nano_usd",),
    "output_cost_usd": ("output_cost_nano_usd",),
    "cache_write_cost_usd": ("cache_write_5m_cost_nano_usd", "cache_write_1h_cost_nano_usd"),
    "cache_read_cost_usd": ("cache_read_cost_nano_usd",),
    "cost_usd": ("cost_nano_usd",),
}
Bounds = Sequence[tuple[datetime, datetime]]


def answer(numbers: Sequence[int]) -> dict[str, Any]:
    """The fields of `UsageFigures` from sums in the order of `FIGURES`."""
    fields: dict[str, Any] = dict(zip(FIGURES, numbers, strict=True))
    return fields | {name: usd(sum(fields[part] for part in parts)) for name, parts in _DOLLARS.items()}


def figures(numbers: Sequence[int]) -> UsageFigures:
    return UsageFigures(**answer(numbers))


def total(rows: Iterable[Sequence[int]]) -> list[int]:
    """The sum of sums."""
    added = [0] * len(FIGURES)
    for row in rows:
        added = [a + b for a, b in zip(added, row, strict=True)]
    return added


def folded(table: Table, key: Callable[[Key], Key], names: tuple[str, ...] | None = None) -> Table:
    """The table with other keys, rows with the same one added up; with `names`, only those columns."""
    columns = names or table.names
    places = [table.names.index(name) for name in columns]
    result = Table(columns)
    for old, numbers in table.rows.items():
        result.add(key(old), [numbers[place] for place in places])
    return result


def rank(numbers: Mapping[str, int], by: Ranking) -> int:
    """How large a group is."""
    return numbers["cost_nano_usd"] if by == "cost" else sum(numbers[name] for name in TOKENS)


def largest(groups: Table, by: Ranking, most: int | None = None) -> list[Any]:
    """The groups of a table with one dimension, the largest first."""

    def order(key: Key) -> tuple[int, str]:
        return -rank(dict(zip(groups.names, groups.rows[key], strict=True)), by), str(key[0])

    return [key[0] for key in sorted(groups.rows, key=order)[:most]]


def bucket_list(times: Table, bounds: Bounds) -> list[UsageBucket]:
    """All buckets, the empty ones too."""
    nothing = [0] * len(FIGURES)
    return [UsageBucket(start=s, end=e, **answer(times.rows.get((s,), nothing))) for s, e in bounds]


def series_list(
    groups: Sequence[Any], series: Table, times: Table, bounds: Bounds, label: Callable[[Any], dict[str, Any]]
) -> list[UsageSeries]:
    """A series of each group, and one of all the others together if there are any."""
    nothing = [0] * len(SERIES)
    rest = {(start,): list(times.rows.get((start,), nothing)) for start, _ in bounds}
    result = []
    for group in groups:
        points = []
        for start, _ in bounds:
            numbers = series.rows.get((group, start), nothing)
            rest[(start,)] = [a - b for a, b in zip(rest[(start,)], numbers, strict=True)]
            points.append(_point(start, numbers))
        result.append(UsageSeries(**label(group), points=points))
    if any(numbers[0] for numbers in rest.values()):
        result.append(UsageSeries(group=None, points=[_point(start, rest[(start,)]) for start, _ in bounds]))
    return result


def _point(start: datetime, numbers: Sequence[int]) -> SeriesPoint:
    fields = dict(zip(SERIES, numbers, strict=True))
    return SeriesPoint(
        start=start,
        requests=fields["requests"],
        tokens=sum(fields[name] for name in TOKENS),
        cost_nano_usd=fields["cost_nano_usd"],
        cost_usd=usd(fields["cost_nano_usd"]),
    )


def label_of(group: object) -> str:
    """A group as text; what has no user, team or session is empty."""
    return "" if group is None else str(group)


def record(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `UsageEntry` from a row of the ledger, and more that it leaves out."""
    return {**row, "cost_usd": usd(row["cost_nano_usd"]), "cursor": cursors.encode(row["id"])}
