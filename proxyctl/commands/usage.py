"""`proxyctl usage`: who used what, and what it cost."""

import sys
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from proxyctl.command import new_group, register
from proxyctl.commands import usage_export
from proxyctl.commands.usage_options import (
    FIGURES,
    KeyOption,
    Model,
    Period,
    PeriodOption,
    Provider,
    Since,
    Team,
    To,
    Until,
    UserOption,
    narrowed,
    span,
)
from proxyctl.context import Cli
from proxyctl.errors import NotFoundError, UsageError
from proxyctl.output import Column, bar, clean, column, dollars

group = new_group("Usage and cost.")
usage_export.register_commands(group)


class By(StrEnum):
    USER = "user"
    MODEL = "model"
    PROVIDER = "provider"
    KEY = "key"
    TEAM = "team"
    SESSION = "session"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Rank(StrEnum):
    COST = "cost"
    TOKENS = "tokens"


class CacheBy(StrEnum):
    MODEL = "model"
    SESSION = "session"


_TIMES = {By.MINUTE: "%F %R", By.HOUR: "%F %R", By.DAY: "%F", By.WEEK: "%F", By.MONTH: "%Y-%m"}
RECORDS = [
    column("time", "admitted_at"),
    column("user", "user_name"),
    column("key", "access_key_name"),
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
CACHE = [
    ("group", lambda row: row["group"] or "-"),
    column("requests"),
    ("hits", lambda row: f"{float(row['hit_ratio']):.1%}" if row["hit_ratio"] else "-"),
    column("cache read", "cache_read_tokens"),
    ("missed", lambda row: row["input_tokens"] + row["cache_write_5m_tokens"] + row["cache_write_1h_tokens"]),
    ("misses cost", lambda row: dollars(row["misses_cost_nano_usd"])),
    ("cost", lambda row: dollars(row["cost_nano_usd"])),
]


@register(group, "summary")
def summary(
    cli: Cli,
    period: PeriodOption = None,
    since: Since = None,
    until: Until = None,
    to: To = None,
    user: UserOption = None,
    key: KeyOption = None,
    provider: Provider = None,
    model: Model = None,
    team: Team = None,
    by: Annotated[By | None, typer.Option("--by", help="One row a user, model, day, …")] = None,
) -> None:
    """Totals of this month, or of the range that is named.

    Example: proxyctl usage summary --since 7d --by user
    """
    query = span(since, until, to, period) | narrowed(cli, user, key, provider, model, team)
    query |= {"bucket": by} if by in _TIMES else {"group_by": by}
    document = cli.client.get("/admin/usage", **query)
    if cli.printer.wants_document:
        cli.printer.rows(document, [])
    elif by is None:
        cli.printer.item(document["totals"], FIGURES, name="requests")
    else:
        rows = _timed(document, _TIMES[by]) if by in _TIMES else document["items"]
        _print_groups(cli, rows, by)
        if document["rounded"]:
            cli.tell(f"rounded: the ledger of that time is gone, this is {document['since']} to {document['until']}")


@register(group, "top")
def top(
    cli: Cli,
    period: PeriodOption = None,
    since: Since = None,
    until: Until = None,
    to: To = None,
    provider: Provider = None,
    model: Model = None,
    team: Team = None,
    by: Annotated[Rank, typer.Option("--by", help="cost or tokens.")] = Rank.COST,
    number: Annotated[int, typer.Option("-n", min=1, max=100, help="How many.")] = 10,
) -> None:
    """The users that cost most."""
    query = span(since, until, to, period) | narrowed(cli, provider=provider, model=model, team=team)
    document = cli.client.get("/admin/usage/top-users", by=by, limit=number, **query)
    if cli.printer.wants_document:
        cli.printer.rows(document, [])
    else:
        _print_groups(cli, document["items"], By.USER)


@register(group, "records")
def records(
    cli: Cli,
    since: Since = None,
    until: Until = None,
    to: To = None,
    user: UserOption = None,
    key: KeyOption = None,
    provider: Provider = None,
    model: Model = None,
    team: Team = None,
    session: Annotated[str | None, typer.Option("--session", help="Only this session's.")] = None,
    request_id: Annotated[str | None, typer.Option("--request-id", help="One request, with its attempts.")] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Only what did not finish.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="Rows on the page.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
) -> None:
    """The ledger, newest first. A cost with ~ is estimated."""
    query = span(since, until, to) | narrowed(cli, user, key, provider, model, team)
    query |= {"session_id": session, "request_id": request_id, "errors": errors, "limit": limit, "cursor": cursor}
    document = cli.client.get("/admin/usage/records", **query)
    if request_id and not document["items"]:
        raise NotFoundError(f"no request {request_id!r} in the ledger", hint="proxyctl usage records")
    cli.printer.rows(document, RECORDS, name="request_id")
    if request_id and not cli.printer.wants_document:
        for entry in document["items"]:
            _tell_attempts(cli, entry)
    if document["next_cursor"]:
        cli.tell(f"more: --cursor {document['next_cursor']}")


@register(group, "cache")
def cache(
    cli: Cli,
    period: PeriodOption = None,
    since: Since = None,
    until: Until = None,
    to: To = None,
    user: UserOption = None,
    key: KeyOption = None,
    provider: Provider = None,
    model: Model = None,
    team: Team = None,
    by: Annotated[CacheBy, typer.Option("--by", help="model or session (7 days at most).")] = CacheBy.MODEL,
) -> None:
    """How well the prompt cache works, and what misses cost. The dearest first."""
    if by is CacheBy.SESSION and period is None and since is None:
        period = Period.DAY
    query = span(since, until, to, period) | narrowed(cli, user, key, provider, model, team)
    cli.printer.rows(cli.client.get("/admin/usage/cache", group_by=by, **query), CACHE, name="group")


@register(group, "session")
def session(
    cli: Cli,
    session_id: Annotated[str, typer.Argument(metavar="ID", help="Claude Code's session id.")],
    user: UserOption = None,
) -> None:
    """What a session cost, as a tree. Its agents, theirs, and their requests."""
    from urllib.parse import quote

    path = f"/admin/usage/sessions/{quote(session_id, safe='')}"
    document = cli.client.get(path, **narrowed(cli, user))
    if cli.printer.wants_document:
        cli.printer.item(document, [])
        return
    if cli.printer.form in ("csv", "name"):
        raise UsageError("a tree has no rows: -o json or yaml", hint=f"proxyctl usage records --session {session_id}")
    sys.stdout.writelines(line + "\n" for line in _tree(document["root"], f"session {session_id}"))
    if document["truncated"]:
        cli.tell("only the first requests are listed; figures are of all")


def _tree(agent: dict[str, Any], title: str) -> list[str]:
    figures = agent["totals"]
    lines = [f"{clean(title)}  {figures['requests']} requests  {dollars(figures['cost_nano_usd'])}"]
    below = [[_request_line(request)] for request in agent["requests"]]
    below += [_tree(child, f"agent {child['agent_id']}") for child in agent["agents"]]
    for number, (first, *rest) in enumerate(below, start=1):
        corner, side = ("└─", "  ") if number == len(below) else ("├─", "│ ")
        lines += [f"{corner} {first}", *(f"{side} {line}" for line in rest)]
    return lines


def _request_line(request: dict[str, Any]) -> str:
    kind = f"  {request['request_class']}" if request["request_class"] else ""
    prompt = f"  prompt {request['prompt_id']}" if request["prompt_id"] else ""
    cost = dollars(request["cost_nano_usd"]) + ("~" if request["estimated"] else "")
    told = f"{request['admitted_at']}  {request['model_served']}  {request['status']}  {cost}{kind}{prompt}"
    return clean(f"{told}  {request['request_id']}")


def _timed(document: dict[str, Any], form: str) -> list[dict[str, Any]]:
    """Buckets as rows, with their start as the budget's zone writes it."""
    zone = ZoneInfo(document["timezone"])
    starts = [datetime.fromisoformat(part["start"]).astimezone(zone) for part in document["buckets"]]
    return [{"group": f"{at:{form}}", **part} for at, part in zip(starts, document["buckets"], strict=True)]


def _print_groups(cli: Cli, rows: list[dict[str, Any]], by: By) -> None:
    columns: list[Column] = [(by.value, lambda row: row.get("name") or row["group"] or "-"), *FIGURES]
    if cli.printer.form in (None, "table") and sys.stdout.isatty():
        most = max((row["cost_nano_usd"] for row in rows), default=0)
        columns.append(("", lambda row: bar(row["cost_nano_usd"], most)))
    cli.printer.rows({"items": rows}, columns, name="group")


def _tell_attempts(cli: Cli, entry: dict[str, Any]) -> None:
    """A line an attempt, such as `1 plan messages 429 rate_limited 12 ms`, and why there was more than one."""
    for number, attempt in enumerate(entry["attempts"], start=1):
        outcome = f"{clean(attempt['status'])} {clean(attempt['failure'] or 'ok')}"
        place = f"{clean(attempt['provider'])} {clean(attempt['route'])}"
        cli.tell(f"{number} {place} {outcome} {attempt['duration_ms']} ms")
    if entry["fallback_reason"]:
        cli.tell(f"fallback: {clean(entry['fallback_reason'])}")
