"""`proxyctl users`."""

from enum import StrEnum
from itertools import islice
from typing import Annotated, Any

import typer

from proxyctl.arguments import UserArgument
from proxyctl.command import new_group, register
from proxyctl.commands.budgets import budget_line
from proxyctl.context import Cli
from proxyctl.errors import ConflictError, NotFoundError, UsageError
from proxyctl.output import checked_dollars, column

group = new_group("The people and machines whose requests are counted.")

COLUMNS = [
    column("name"),
    column("team"),
    column("strategy", "routing_strategy"),
    column("active", "is_active"),
    column("created", "created_at"),
    column("id"),
]


class IfExists(StrEnum):
    """What `create` does when the name is taken."""

    FAIL = "fail"
    SKIP = "skip"
    UPDATE = "update"


class IfMissing(StrEnum):
    """What `delete` and `revoke` do when there is nothing."""

    FAIL = "fail"
    SKIP = "skip"


Description = Annotated[str | None, typer.Option("--description", help="Free text.")]
Team = Annotated[str | None, typer.Option("--team", help="Label for reports.")]
Strategy = Annotated[
    str | None, typer.Option("--strategy", help="plan_first, plan_only, bedrock_first or bedrock_only.")
]


@register(group, "list")
def list_users(
    cli: Cli,
    search: Annotated[str | None, typer.Option("--search", help="Part of the name.")] = None,
    strategy: Strategy = None,
    over_budget: Annotated[bool, typer.Option("--over-budget", help="Only those whose budget is used up.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many; else all.")] = None,
) -> None:
    """All users, in the order they were created.

    Example: proxyctl users list --strategy bedrock_only
    """
    users = cli.client.items("/admin/users", search=search, strategy=strategy)
    if over_budget:
        over = {row["user_id"] for row in cli.client.items("/admin/budgets") if row["exceeded"]}
        users = (user for user in users if user["id"] in over)
    cli.printer.rows({"items": list(islice(users, limit)), "next_cursor": None}, COLUMNS)


@register(group, "get")
def get_user(cli: Cli, user: UserArgument) -> None:
    """One user, with keys and budget; as JSON, the user alone.

    Example: proxyctl users get alice
    """
    from proxyctl.resolve import find_user

    found = find_user(cli.client, user)
    if cli.printer.form not in (None, "table") or cli.options.query:
        cli.printer.item(found, COLUMNS)
        return
    keys = cli.client.items(f"/admin/users/{found['id']}/access-keys")
    budget = cli.client.get(f"/admin/users/{found['id']}/budget")
    more = [
        column("description"),
        ("keys", lambda _: ", ".join(f"{key['name']} ({key['key_prefix']})" for key in keys) or None),
        ("budget", lambda _: budget_line(budget)),
    ]
    cli.printer.item(found, [*COLUMNS, *more])


@register(group, "create")
def create_user(
    cli: Cli,
    name: Annotated[str, typer.Argument(help="Unique among users that are not deleted.")],
    description: Description = None,
    team: Team = None,
    strategy: Strategy = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Dollars a month, or none; else the daemon's default.")
    ] = None,
    if_exists: Annotated[IfExists, typer.Option("--if-exists", help="When the name is taken.")] = IfExists.FAIL,
) -> None:
    """Create a user.

    Example: proxyctl users create alice --team platform --budget 200
    """
    body = _given(name=name, description=description, team=team, routing_strategy=strategy)
    limit = {} if budget is None else {"budget_usd": None if budget == "none" else checked_dollars("--budget", budget)}
    try:
        user = cli.client.post("/admin/users", body | limit)
    except ConflictError as error:
        existing = list(cli.client.items("/admin/users", name=name))
        if not existing or if_exists is IfExists.FAIL:
            error.hint = f"to reuse it: --if-exists skip      to change it: proxyctl users update {name} …"
            raise
        user = existing[0] | {"result": "unchanged"}
        if if_exists is IfExists.UPDATE:
            user = _update(cli, existing[0], body)
            if limit:
                path = f"/admin/users/{user['id']}/budget"
                before = cli.client.get(path)
                if cli.client.put(path, limit, version=before["version"])["version"] != before["version"]:
                    user |= {"result": "updated"}
    cli.tell(f"{user['result'].capitalize()} user {user['name']}.")
    _print(cli, user)


@register(group, "update")
def update_user(
    cli: Cli,
    user: UserArgument,
    name: Annotated[str | None, typer.Option("--name", help="A new name.")] = None,
    description: Description = None,
    team: Team = None,
    strategy: Strategy = None,
    active: Annotated[bool | None, typer.Option("--active/--inactive", help="Whether requests are let in.")] = None,
) -> None:
    """Change a user; what is not named stays."""
    from proxyctl.resolve import find_user

    body = _given(name=name, description=description, team=team, routing_strategy=strategy, is_active=active)
    if not body:
        raise UsageError("nothing to change", hint="proxyctl users update --help")
    changed = _update(cli, find_user(cli.client, user), body)
    cli.tell(f"{changed['result'].capitalize()} user {changed['name']}.")
    _print(cli, changed)


@register(group, "delete")
def delete_user(
    cli: Cli,
    user: UserArgument,
    if_missing: Annotated[IfMissing, typer.Option("--if-missing", help="When there is no such user.")] = IfMissing.FAIL,
) -> None:
    """Delete a user and revoke its keys. What it used stays on the books."""
    from proxyctl.resolve import find_user

    try:
        found = find_user(cli.client, user)
    except NotFoundError:
        if if_missing is IfMissing.SKIP:
            cli.tell(f"No user {user!r}, nothing to do.")
            return
        raise
    cli.confirm(f"This deletes user {found['name']} and revokes all its keys", name=found["name"])
    cli.client.delete(f"/admin/users/{found['id']}")
    cli.tell(f"Deleted user {found['name']}.")


def _update(cli: Cli, user: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    if all(user[field] == value for field, value in body.items()):
        return user | {"result": "unchanged"}
    return cli.client.patch(f"/admin/users/{user['id']}", body, version=user["version"]) | {"result": "updated"}


def _print(cli: Cli, user: dict[str, Any]) -> None:
    if cli.quiet:
        typer.echo(user["id"])
    elif cli.printer.form or cli.options.query:
        cli.printer.item(user, COLUMNS)


def _given(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
