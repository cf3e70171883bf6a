"""Time as people type it: `7d` and `24h` until now, dates, instants."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

from proxyctl.errors import UsageError

_SPAN = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def start_of(text: str, now: datetime) -> str:
    """What the daemon is asked for as the start: a span becomes an instant, anything else is passed on as it is."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        return text
    try:
        return (now - timedelta(**{_UNITS[match[2]]: int(match[1])})).astimezone(UTC).isoformat()
    except OverflowError:
        raise UsageError(f"{text!r} is before the calendar begins") from None


def day_after(text: str) -> str:
    """The date after a date that is itself included.

    Raises:
        UsageError: it is none.
    """
    with suppress(ValueError, OverflowError):
        if _DATE.fullmatch(text):
            return (date.fromisoformat(text) + timedelta(days=1)).isoformat()
    raise UsageError(f"--to {text!r}: expected a date such as 2026-11-30, or use --until")


def expiry(text: str, now: datetime, *, option: str = "--expires") -> str | None:
    """The instant that a span, an instant or `never` means; None is never."""
    if text == "never":
        return None
    match = _SPAN.fullmatch(text)
    if match is not None:
        try:
            return (now + timedelta(**{_UNITS[match[2]]: int(match[1])})).replace(microsecond=0).isoformat()
        except OverflowError:
            raise UsageError(f"{option} {text!r} is after the calendar ends") from None
    try:
        if datetime.fromisoformat(text).tzinfo is not None:
            return text
    except ValueError:
        pass
    raise UsageError(f"{option} {text!r}: expected 90d, 12h, 4w, an instant with a zone, or never")


_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_STEPS = ((86_400 * 2, 86_400, "days"), (3600 * 2, 3600, "h"), (120, 60, "min"), (0, 1, "s"))


def ago(text: str, now: datetime) -> str:
    """An instant as people say it, such as `5 min ago` or `in 3 days`; anything else as it is."""
    if not _INSTANT.fullmatch(text):
        return text
    try:
        seconds = (now - datetime.fromisoformat(text)).total_seconds()
    except (ValueError, OverflowError):  # looks like one, and is none
        return text
    amount = next(f"{abs(seconds) // unit:.0f} {name}" for least, unit, name in _STEPS if abs(seconds) >= least)
    return f"{amount} ago" if seconds >= 0 else f"in {amount}"
