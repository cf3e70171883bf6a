"""`proxyctl budgets`."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from proxyctl.arguments import UserArgument
from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.output import checked_dollars, column

group = new_group("What users may spend in a period.")


class Period(StrEnum):
    """How long a budget lasts."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


def _money(field: str) -> Any:
    def shown(row: Any) -> str | None:
        amount = row[field]
        if amount is None:
            return None
        dollars, _, rest = amount.partition(".")
        return f"${int(dollars):,}.{rest[:2]}"

    return shown


COLUMNS = [
    column("user", "user_name"),
    column("team"),
    ("budget", _money("budget_usd")),
    column("period"),
    ("spent", _money("spent_usd")),
    ("reserved", _money("reserved_usd")),
    ("remaining", _money("remaining_usd")),
    ("used", lambda row: None if row["percent"] is None else f"{row['percent']:.0f} %"),
    column("resets at", "resets_at"),
]


def budget_line(budget: dict[str, Any]) -> str:
    """A budget's state in a line."""
    shown = {title: value(budget) for title, value in COLUMNS}
    if shown["budget"] is None:
        return f"none; {shown['spent']} spent this period"
    line = f"{shown['spent']} of {shown['budget']} {shown['period']} spent, resets {shown['resets at']}"
    return f"{line}. {_counts(budget)}"


def _counts(budget: dict[str, Any]) -> str:
    """What is counted: not what the plan serves, unless it is asked for."""
    if budget["scope"] == "all":
        return "It counts all that is served."
    return "It counts what Amazon Bedrock serves (PROXY_BUDGET_SCOPE=bedrock)."


@register(group, "list")
def list_budgets(
    cli: Cli,
    over: Annotated[float | None, typer.Option("--over", min=0, help="Only those above so many percent.")] = None,
    team: Annotated[str | None, typer.Option("--team", help="Only this team's.")] = None,
) -> None:
    """Everyone who has a budget, and how much of it is gone.

    Example: proxyctl budgets list --over 80
    """
    items = list(cli.client.items("/admin/budgets", over=over, team=team))
    cli.printer.rows({"items": items, "next_cursor": None}, COLUMNS, name="user_name")


@register(group, "get")
def get_budget(cli: Cli, user: UserArgument) -> None:
    """A user's budget in its current period."""
    from proxyctl.resolve import find_user

    found = find_user(cli.client, user)
    cli.printer.item(cli.client.get(f"/admin/users/{found['id']}/budget"), COLUMNS, name="user_id")


@register(group, "set")
def set_budget(
    cli: Cli,
    user: UserArgument,
    amount: Annotated[str, typer.Argument(help="Dollars: 10, 10.50; 0 blocks everything that counts.")],
    period: Annotated[Period | None, typer.Option("--period", help="daily, weekly or monthly.")] = None,
) -> None:
    """Set a user's budget; it holds from the next request on.

    Example: proxyctl budgets set alice 250 --period monthly
    """
    _change(cli, user, {"budget_usd": checked_dollars("AMOUNT", amount)} | ({"period": period.value} if period else {}))


@register(group, "clear")
def clear_budget(cli: Cli, user: UserArgument) -> None:
    """Take a user's budget away: no limit from the next request on."""
    _change(cli, user, {"budget_usd": None})


def _change(cli: Cli, user: str, wanted: dict[str, Any]) -> None:
    from proxyctl.resolve import find_user

    path = f"/admin/users/{find_user(cli.client, user)['id']}/budget"
    before = cli.client.get(path)
    after = cli.client.put(path, wanted, version=before["version"])
    result = "unchanged" if after["version"] == before["version"] else "updated"
    limit = _money("budget_usd")(after)
    shown = f"{limit} {after['period']}. {_counts(after)}" if limit else "none."
    cli.tell(f"{result.capitalize()} budget of {after['user_name']}: {shown}")
    if cli.printer.form or cli.options.query:
        cli.printer.item(after | {"result": result}, COLUMNS, name="user_id")
