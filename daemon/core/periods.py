"""Days, weeks and months of a time zone, as instants."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

Period = Literal["daily", "weekly", "monthly"]


def day_start(instant: datetime, zone: ZoneInfo) -> datetime:
    """The instant (UTC) at which the local day of `instant` began; a day may have 23 or 25 hours."""
    return _midnight(instant.astimezone(zone).date(), zone)


def period_bounds(instant: datetime, kind: Period, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Start and end (UTC, end exclusive) of the local day, week (from Monday) or month that `instant` lies in."""
    today = instant.astimezone(zone).date()
    match kind:
        case "daily":
            first, last = today, today + timedelta(days=1)
        case "weekly":
            first = today - timedelta(days=today.weekday())
            last = first + timedelta(days=7)
        case "monthly":
            first = today.replace(day=1)
            last = (first + timedelta(days=32)).replace(day=1)
    return _midnight(first, zone), _midnight(last, zone)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time.min, tzinfo=zone).astimezone(UTC)
