"""`proxyctl routing`."""

from typing import Annotated, Any

import typer

from proxyctl.arguments import UserArgument
from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.errors import UsageError
from proxyctl.output import column

group = new_group("In which order providers are tried for a user.")

STRATEGIES = {
    "plan_first": "the Anthropic plan; Amazon Bedrock when the plan cannot serve",
    "plan_only": "the Anthropic plan and nothing else",
    "bedrock_first": "Amazon Bedrock; the Anthropic plan when Bedrock cannot serve",
    "bedrock_only": "Amazon Bedrock and nothing else",
}
COLUMNS = [
    column("user", "name"),
    column("strategy", "routing_strategy"),
    ("meaning", lambda row: STRATEGIES.get(row["routing_strategy"])),
]


@register(group, "get")
def get_strategy(cli: Cli, user: UserArgument) -> None:
    """A user's strategy."""
    from proxyctl.resolve import find_user

    cli.printer.item(_shown(find_user(cli.client, user)), COLUMNS, name="routing_strategy")


@register(group, "set")
def set_strategy(
    cli: Cli,
    user: UserArgument,
    strategy: Annotated[str, typer.Argument(help=f"{', '.join(STRATEGIES)}.", autocompletion=lambda: list(STRATEGIES))],
) -> None:
    """Set a user's strategy; it counts from the next request on.

    Example: proxyctl routing set alice bedrock_first
    """
    from proxyctl.resolve import find_user

    if strategy not in STRATEGIES:
        raise UsageError(f"strategy {strategy!r}: expected {', '.join(STRATEGIES)}", hint="proxyctl routing strategies")
    found = find_user(cli.client, user)
    result = "unchanged"
    if found["routing_strategy"] != strategy:
        path = f"/admin/users/{found['id']}/routing-strategy"
        found = cli.client.put(path, {"routing_strategy": strategy}, version=found["version"])
        result = "updated"
    cli.tell(f"{result.capitalize()} user {found['name']}: {strategy}, {STRATEGIES[strategy]}.")
    if cli.printer.form or cli.options.query:
        cli.printer.item(_shown(found) | {"result": result}, COLUMNS, name="routing_strategy")


@register(group, "strategies")
def list_strategies(cli: Cli) -> None:
    """The strategies there are."""
    items = [{"strategy": name, "meaning": meaning} for name, meaning in STRATEGIES.items()]
    cli.printer.rows({"items": items, "next_cursor": None}, [column("strategy"), column("meaning")], name="strategy")


def _shown(user: dict[str, Any]) -> dict[str, Any]:
    return {field: user[field] for field in ("id", "name", "routing_strategy", "version")}
