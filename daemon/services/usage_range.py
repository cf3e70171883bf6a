"""What a report covers: from what a person asks for to the pieces that the store is asked for."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter, ValidationError

from daemon.contract.common import Instant
from daemon.contract.usage import Bucket, Period
from daemon.core.periods import period_bounds
from daemon.core.ranges import Piece, bucket_bounds, buckets, decompose, decompose_without_days, whole_hours, widen
from daemon.services.errors import Invalid
from daemon.store.rollups import Marks

LONGEST = timedelta(days=1100)
LONGEST_LEDGER = timedelta(days=7)
MOST_BUCKETS = 2000
_KINDS: dict[Period, Any] = {"day": "daily", "week": "weekly", "month": "monthly"}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)


@dataclass(frozen=True, slots=True)
class Span:
    """A named period, or instants or dates; nothing means this month. `until` is not part of it."""

    since: str | None = None
    until: str | None = None
    period: Period | None = None


@dataclass(frozen=True, slots=True)
class Cover:
    """A range and its pieces. `bounds` gives the bucket of an instant, `buckets` all of them in order."""

    since: datetime
    until: datetime
    rounded: bool
    pieces: list[Piece]


class Ranges:
    """Reads spans. Dates are days of `zone`."""

    def __init__(self, zone: ZoneInfo, now: Callable[[], datetime]) -> None:
        self.zone = zone
        self.now = now

    def bounds(self, span: Span) -> tuple[datetime, datetime]:
        """Start and end of a span.

        Raises:
            Invalid: it is none, is reversed, or is longer than three years.
        """
        if span.period is not None and (span.since or span.until):
            raise Invalid("give either a period or instants", field="period")
        if span.until is not None and span.since is None:
            raise Invalid("is needed with until", field="since")
        if span.since is None:
            return period_bounds(self.now(), _KINDS[span.period or "month"], self.zone)
        since = self._moment(span.since, "since")
        until = self._moment(span.until, "until") if span.until else self.now() + timedelta(microseconds=1)
        if until <= since:
            raise Invalid("must be later than since", field="until")
        if until - since > LONGEST:
            raise Invalid(f"the range must not be longer than {LONGEST.days} days", field="since")
        return since, until

    def buckets(self, since: datetime, until: datetime, bucket: Bucket) -> list[tuple[datetime, datetime]]:
        """All buckets of a range.

        Raises:
            Invalid: there are too many.
        """
        found = []
        for bounds in buckets(since, until, bucket, self.zone):
            found.append(bounds)
            if len(found) > MOST_BUCKETS:
                raise Invalid(f"the range has more than {MOST_BUCKETS} of them: take larger ones", field="bucket")
        return found

    def bucket_of(self, bucket: Bucket) -> Callable[[datetime], datetime]:
        """Where the bucket of an instant begins; remembers what it worked out."""
        known: dict[datetime, datetime] = {}

        def start(instant: datetime) -> datetime:
            if instant not in known:
                known[instant] = bucket_bounds(instant, bucket, self.zone)[0]
            return known[instant]

        return start

    def cover(self, since: datetime, until: datetime, marks: Marks, bucket: Bucket | None) -> Cover:
        """The pieces of a range: as coarse as the buckets allow, as fine as its ends need."""
        if bucket == "minute":
            return self.cover_with_ledger(since, until, marks)
        wide = (since, until)
        if marks.floor is not None:
            wide = widen(since, until, marks.floor, self.zone, to_hours=bucket == "hour")
        if bucket == "hour":
            pieces = whole_hours(*wide)
        elif marks.zone in (None, self.zone.key):
            pieces = decompose(*wide, self.zone)
        else:  # days of the zone are being made anew
            pieces = decompose_without_days(*wide, self.zone)
        gone = marks.floor is not None and any(p.source == "ledger" and p.since < marks.floor for p in pieces)
        return Cover(*wide, gone or wide != (since, until), pieces)

    def cover_with_ledger(self, since: datetime, until: datetime, marks: Marks) -> Cover:
        """A range for which only the ledger will do."""
        gone = marks.floor is not None and since < marks.floor
        return Cover(since, until, gone, [Piece("ledger", since, until)])

    def _moment(self, text: str, field: str) -> datetime:
        try:
            if _DATE.fullmatch(text):
                return datetime.combine(date.fromisoformat(text), time.min, tzinfo=self.zone).astimezone(UTC)
            return _INSTANT.validate_python(text)
        except (ValueError, OverflowError, ValidationError):
            raise Invalid("expected a date such as 2026-11-01 or an instant with a zone", field=field) from None
