"""`proxyctl usage`: who used what, and what it cost."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.output import clean, column, dollars

group = new_group("Usage and cost.")


class Period(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class By(StrEnum):
    USER = "user"
    MODEL = "model"
    PROVIDER = "provider"
    KEY = "key"
    DAY = "day"


class Rank(StrEnum):
    COST = "cost"
    TOKENS = "tokens"


FIGURES = [
    column("requests"),
    column("errors"),
    column("input", "input_tokens"),
    column("output", "output_tokens"),
    ("cache write", lambda row: row["cache_write_5m_tokens"] + row["cache_write_1h_tokens"]),
    column("cache read", "cache_read_tokens"),
    ("cost", lambda row: dollars(row["cost_nano_usd"])),
]
RECORDS = [
    column("time", "admitted_at"),
    column("provider"),
    column("model", "model_served"),
    column("status"),
    column("ended"),
    column("input", "input_tokens"),
    column("output", "output_tokens"),
    column("ms", "duration_ms"),
    ("cost", lambda row: dollars(row["cost_nano_usd"]) + ("~" if row["estimated"] else "")),
    column("request", "request_id"),
]
_GROUP = ("group", lambda row: row.get("name") or row["group"])

PeriodOption = Annotated[Period | None, typer.Option("--period", help="day, week or month until now.")]
Since = Annotated[str | None, typer.Option("--since", help="RFC 3339 instant.")]
Until = Annotated[str | None, typer.Option("--until", help="RFC 3339 instant, not included.")]
UserOption = Annotated[str | None, typer.Option("--user", help="Only this user's.")]
Model = Annotated[str | None, typer.Option("--model", help="Only this model's.")]


@register(group, "summary")
def summary(
    cli: Cli,
    period: PeriodOption = None,
    since: Since = None,
    until: Until = None,
    user: UserOption = None,
    model: Model = None,
    by: Annotated[By | None, typer.Option("--by", help="One row a user, model, provider, key or day.")] = None,
) -> None:
    """Totals of this month, or of the range that is named.

    Example: proxyctl usage summary --period week --by user
    """
    query = {
        "period": period,
        "since": since,
        "until": until,
        "model": model,
        "group_by": by,
        "user_id": _id(cli, user),
    }
    document = cli.client.get("/admin/usage", **query)
    if by is None and not _wants_document(cli):
        cli.printer.item(document["totals"], FIGURES, name="requests")
        return
    cli.printer.rows(document, [_GROUP, *FIGURES], name="group")


@register(group, "top")
def top(
    cli: Cli,
    period: PeriodOption = None,
    since: Since = None,
    until: Until = None,
    by: Annotated[Rank, typer.Option("--by", help="cost or tokens.")] = Rank.COST,
    number: Annotated[int, typer.Option("-n", min=1, max=100, help="How many.")] = 10,
) -> None:
    """The users that cost most."""
    document = cli.client.get("/admin/usage/top-users", period=period, since=since, until=until, by=by, limit=number)
    cli.printer.rows(document, [("user", lambda row: row.get("name") or row["group"]), *FIGURES], name="group")


@register(group, "records")
def records(
    cli: Cli,
    user: UserOption = None,
    model: Model = None,
    request_id: Annotated[str | None, typer.Option("--request-id", help="One request, with its attempts.")] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Only what did not finish.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="Rows on the page.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
) -> None:
    """The ledger, newest first. A cost with ~ is estimated."""
    query: dict[str, Any] = {
        "user_id": _id(cli, user),
        "model": model,
        "request_id": request_id,
        "errors": errors,
        "limit": limit,
        "cursor": cursor,
    }
    document = cli.client.get("/admin/usage/records", **query)
    cli.printer.rows(document, RECORDS, name="request_id")
    if request_id and not _wants_document(cli):
        for entry in document["items"]:
            _tell_attempts(cli, entry)
    if document["next_cursor"]:
        cli.tell(f"more: --cursor {document['next_cursor']}")


def _tell_attempts(cli: Cli, entry: dict[str, Any]) -> None:
    """A line an attempt, such as `1 plan messages 429 rate_limited 12 ms`, and why there was more than one."""
    for number, attempt in enumerate(entry["attempts"], start=1):
        outcome = f"{clean(attempt['status'])} {clean(attempt['failure'] or 'ok')}"
        place = f"{clean(attempt['provider'])} {clean(attempt['route'])}"
        cli.tell(f"{number} {place} {outcome} {attempt['duration_ms']} ms")
    if entry["fallback_reason"]:
        cli.tell(f"fallback: {clean(entry['fallback_reason'])}")


def _id(cli: Cli, user: str | None) -> str | None:
    from proxyctl.resolve import find_user

    return str(find_user(cli.client, user)["id"]) if user else None


def _wants_document(cli: Cli) -> bool:
    return cli.printer.form in ("json", "yaml") or bool(cli.options.query)
