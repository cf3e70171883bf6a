"""Time ranges of reports: buckets of a zone, and the pieces of a range that rollups and ledger answer for."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from daemon.core.periods import Period, day_start, period_bounds

Bucket = Literal["minute", "hour", "day", "week", "month"]
Source = Literal["ledger", "hour", "day"]
HOUR = timedelta(hours=1)
_PERIODS: dict[Bucket, Period] = {"day": "daily", "week": "weekly", "month": "monthly"}


@dataclass(frozen=True, slots=True)
class Piece:
    """[since, until), and what knows its sums: the ledger, or rollups of whole hours or whole days."""

    source: Source
    since: datetime
    until: datetime


def hour_start(instant: datetime) -> datetime:
    """The instant at which the hour of UTC began."""
    return instant.replace(minute=0, second=0, microsecond=0)


def bucket_bounds(instant: datetime, bucket: Bucket, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Start and end of the bucket that holds an instant. Minutes and hours are those of UTC, the others the zone's."""
    match bucket:
        case "minute":
            start = instant.replace(second=0, microsecond=0)
            return start, start + timedelta(minutes=1)
        case "hour":
            return hour_start(instant), hour_start(instant) + HOUR
        case _:
            return period_bounds(instant, _PERIODS[bucket], zone)


def buckets(since: datetime, until: datetime, bucket: Bucket, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
    """All buckets that a range touches, in order and without gaps."""
    at = since
    while at < until:
        start, end = bucket_bounds(at, bucket, zone)
        yield start, end
        at = end


def decompose(since: datetime, until: datetime, zone: ZoneInfo) -> list[Piece]:
    """The range as whole days of the zone, whole hours of UTC, and edges for the ledger. Pieces never overlap.

    No piece of the ledger crosses an hour of UTC or a midnight of the zone.
    """
    first, last = _day_ceiling(since, zone), day_start(until, zone)
    if first > last:
        return whole_hours(since, until)
    days = [Piece("day", first, last)] if first < last else []
    return [*whole_hours(since, first), *days, *whole_hours(last, until)]


def decompose_without_days(since: datetime, until: datetime, zone: ZoneInfo) -> list[Piece]:
    """The same without rollups of days: for the time in which they are made anew."""
    pieces: list[Piece] = []
    for start, end in buckets(since, until, "day", zone):
        for piece in whole_hours(max(start, since), min(end, until)):
            before = pieces[-1] if pieces else None
            if before and before.source == piece.source == "hour" and before.until == piece.since:
                pieces[-1] = Piece("hour", before.since, piece.until)
            else:
                pieces.append(piece)
    return pieces


def widen(
    since: datetime, until: datetime, floor: datetime, zone: ZoneInfo, *, to_hours: bool
) -> tuple[datetime, datetime]:
    """A range whose ends before `floor`, where there is no ledger any more, lie where a rollup begins or ends.

    That is a whole hour with `to_hours` and where midnights are on whole hours, elsewhere a whole day.
    """
    if since < floor and since != day_start(since, zone):
        since = hour_start(since) if to_hours or _on_the_hour(since, zone) else day_start(since, zone)
    if until < floor and until != day_start(until, zone):
        if to_hours or _on_the_hour(until, zone):
            until = until if until == hour_start(until) else hour_start(until) + HOUR
        else:
            until = _day_ceiling(until, zone)
    return since, until


def _on_the_hour(instant: datetime, zone: ZoneInfo) -> bool:
    start, end = period_bounds(instant, "daily", zone)
    return start == hour_start(start) and end == hour_start(end)


def whole_hours(since: datetime, until: datetime) -> list[Piece]:
    """The range as whole hours of UTC, with the ledger on both sides."""
    if since >= until:
        return []
    first, last = hour_start(since), hour_start(until)
    if first < since:
        first += HOUR
    if first > last:
        return [Piece("ledger", since, until)]
    parts = (Piece("ledger", since, first), Piece("hour", first, last), Piece("ledger", last, until))
    return [piece for piece in parts if piece.since < piece.until]


def _day_ceiling(instant: datetime, zone: ZoneInfo) -> datetime:
    start, end = period_bounds(instant, "daily", zone)
    return instant if instant == start else end
