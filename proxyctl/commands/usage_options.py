"""The options that the usage commands share, and the query they become."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from proxyctl import complete
from proxyctl.context import Cli
from proxyctl.errors import UsageError
from proxyctl.output import column, dollars


class Period(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


PeriodOption = Annotated[Period | None, typer.Option("--period", help="This day, week or month; default: month.")]
Since = Annotated[
    str | None, typer.Option("--since", "--from", help="A span such as 7d or 24h, a date, or an RFC 3339 instant.")
]
Until = Annotated[str | None, typer.Option("--until", help="A date or an RFC 3339 instant, not included.")]
To = Annotated[str | None, typer.Option("--to", help="The last day, included.")]
UserOption = Annotated[str | None, typer.Option("--user", help="Only this user's.", autocompletion=complete.users)]
KeyOption = Annotated[str | None, typer.Option("--key", help="Only this key's.", autocompletion=complete.keys)]
Provider = Annotated[str | None, typer.Option("--provider", help="Only this provider's.")]
Model = Annotated[str | None, typer.Option("--model", help="Only this model's.")]
Team = Annotated[str | None, typer.Option("--team", help="Only that of users who are in this team now.")]

FIGURES = [
    column("requests"),
    column("errors"),
    column("input", "input_tokens"),
    column("output", "output_tokens"),
    ("cache write", lambda row: row["cache_write_5m_tokens"] + row["cache_write_1h_tokens"]),
    column("cache read", "cache_read_tokens"),
    ("cost", lambda row: dollars(row["cost_nano_usd"])),
]


def span(
    since: str | None, until: str | None = None, to: str | None = None, period: Period | None = None
) -> dict[str, Any]:
    """The range as the API takes it."""
    from proxyctl.timespan import day_after, start_of

    if until is not None and to is not None:
        raise UsageError("--to and --until both say where the range ends: give one")
    return {
        "period": period,
        "since": start_of(since, datetime.now(UTC)) if since else None,
        "until": day_after(to) if to else until,
    }


def narrowed(
    cli: Cli,
    user: str | None = None,
    key: str | None = None,
    provider: str | None = None,
    model: str | None = None,
    team: str | None = None,
) -> dict[str, Any]:
    """The filters as the API takes them: names become ids."""
    from proxyctl.resolve import find_key, find_user

    return {
        "user_id": find_user(cli.client, user)["id"] if user else None,
        "access_key_id": find_key(cli.client, key)["id"] if key else None,
        "provider": provider,
        "model": model,
        "team": team,
    }
