"""`proxyctl keys`."""

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from proxyctl import complete
from proxyctl.arguments import KeyArgument, UserArgument
from proxyctl.command import new_group, register
from proxyctl.commands.users import IfMissing
from proxyctl.context import Cli
from proxyctl.errors import ConflictError, NotFoundError, UsageError
from proxyctl.output import column
from proxyctl.reveal import Emit, check_output_file, deliver, rendered
from proxyctl.timespan import expiry

group = new_group("Access keys: what Claude Code authenticates with.")

COLUMNS = [
    column("key", "key_prefix"),
    column("user", "user_name"),
    column("name"),
    column("status"),
    column("last used", "last_used_at"),
    column("expires", "expires_at"),
    column("id"),
]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

OutputFile = Annotated[str | None, typer.Option("--output-file", help="Write to this new file (mode 0600).")]
EmitAs = Annotated[Emit, typer.Option("--emit", help="key, env, or claude-settings.")]

RequestsPerMinute = Annotated[
    int | None, typer.Option("--requests-per-minute", min=0, help="Most requests in a minute; 0 is no limit.")
]
TokensPerMinute = Annotated[
    int | None, typer.Option("--tokens-per-minute", min=0, help="Most tokens in a minute; 0 is no limit.")
]
Concurrent = Annotated[int | None, typer.Option("--concurrent", min=0, help="Most requests at once; 0 is no limit.")]


class IfExists(StrEnum):
    """What `create` does when the user has a key of that name."""

    FAIL = "fail"
    SKIP = "skip"
    ROTATE = "rotate"


@register(group, "list")
def list_keys(
    cli: Cli,
    user: Annotated[str | None, typer.Argument(help="Only this user's.", autocompletion=complete.users)] = None,
) -> None:
    """Keys that are not revoked; never their secrets."""
    from proxyctl.resolve import find_user

    path = f"/admin/users/{find_user(cli.client, user)['id']}/access-keys" if user else "/admin/access-keys"
    cli.printer.rows({"items": list(cli.client.items(path)), "next_cursor": None}, COLUMNS)


@register(group, "get")
def get_key(cli: Cli, key: KeyArgument) -> None:
    """One key, with its limits."""
    from proxyctl.resolve import find_key

    more = [
        column("old secret until", "previous_expires_at"),
        column("requests per minute", "limit_requests_per_minute"),
        column("tokens per minute", "limit_tokens_per_minute"),
        column("concurrent", "limit_concurrent_requests"),
    ]
    cli.printer.item(find_key(cli.client, key), [*COLUMNS, *more])


@register(group, "create")
def create_key(
    cli: Cli,
    user: UserArgument,
    name: Annotated[str, typer.Option("--name", help="Unique among the user's keys.")] = "default",
    expires_at: Annotated[
        str | None, typer.Option("--expires-at", help="90d, 12h, 4w, or an instant such as 2027-01-01T00:00:00Z.")
    ] = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    concurrent: Concurrent = None,
    if_exists: Annotated[IfExists, typer.Option("--if-exists", help="When the name is taken.")] = IfExists.FAIL,
    output_file: OutputFile = None,
    emit: EmitAs = Emit.KEY,
) -> None:
    """Create an access key; it is shown once.

    A lost answer is a lost key: run it again with --if-exists rotate. On the developer's machine, proxyctl claude setup
    takes the key into Claude Code's settings.

    Example: proxyctl keys create alice --name laptop --emit env
    """
    from proxyctl.resolve import find_user

    check_output_file(output_file)
    owner = find_user(cli.client, user)
    limits = _limits(requests_per_minute, tokens_per_minute, concurrent)
    body = {"name": name} | ({"expires_at": _expiry(expires_at)} if expires_at else {}) | limits
    try:
        key = cli.client.post(f"/admin/users/{owner['id']}/access-keys", body)
    except ConflictError as error:
        existing = [k for k in cli.client.items(f"/admin/users/{owner['id']}/access-keys") if k["name"] == name]
        if not existing or if_exists is IfExists.FAIL:
            error.hint = "to keep it: --if-exists skip      for a new secret: --if-exists rotate"
            raise
        if if_exists is IfExists.SKIP:
            cli.tell(f"Unchanged key {name} of {owner['name']}.")
            _print(cli, existing[0] | {"result": "unchanged"})
            return
        key = cli.client.post(f"/admin/access-keys/{existing[0]['id']}/rotate", {"grace_seconds": 300})
    _reveal(cli, key, output_file, emit)


@register(group, "update")
def update_key(
    cli: Cli,
    key: KeyArgument,
    name: Annotated[str | None, typer.Option("--name", help="A new name.")] = None,
    expires_at: Annotated[str | None, typer.Option("--expires-at", help="90d, 12h, 4w, an instant, or never.")] = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    concurrent: Concurrent = None,
) -> None:
    """Change a key's name, expiry or limits. What is not named stays, 0 takes a limit away.

    Example: proxyctl keys update alice/laptop --requests-per-minute 60 --concurrent 8
    """
    from proxyctl.resolve import find_key

    body: dict[str, Any] = _limits(requests_per_minute, tokens_per_minute, concurrent)
    if name is not None:
        body["name"] = name
    if expires_at is not None:
        body["expires_at"] = _expiry("never" if expires_at == "none" else expires_at)
    if not body:
        raise UsageError("nothing to change", hint="proxyctl keys update --help")
    found = find_key(cli.client, key)
    changed = cli.client.patch(f"/admin/access-keys/{found['id']}", body, version=found["version"])
    result = "unchanged" if changed["version"] == found["version"] else "updated"
    cli.tell(f"{result.capitalize()} key {changed['name']} of {changed['user_name']}.")
    _print(cli, changed | {"result": result})


@register(group, "rotate")
def rotate_key(
    cli: Cli,
    key: KeyArgument,
    grace: Annotated[str, typer.Option("--grace", help="How long the old secret still works: 0s, 5m, 1h.")] = "5m",
    output_file: OutputFile = None,
    emit: EmitAs = Emit.KEY,
) -> None:
    """Give a key a new secret; id, name and usage stay.

    Only one old secret works beside the new one: rotating again within the grace ends the one before at once.

    Example: proxyctl keys rotate alice/laptop --grace 1h --output-file laptop.key
    """
    from proxyctl.resolve import find_key

    check_output_file(output_file)
    found = find_key(cli.client, key)
    ends = found["previous_expires_at"]
    if ends is not None and datetime.fromisoformat(ends) > datetime.now(UTC):
        cli.tell(f"The secret before the last rotation, which would have worked until {ends}, ends now.")
    rotated = cli.client.post(f"/admin/access-keys/{found['id']}/rotate", {"grace_seconds": seconds(grace)})
    _reveal(cli, rotated, output_file, emit)


@register(group, "revoke")
def revoke_key(
    cli: Cli,
    key: KeyArgument,
    if_missing: Annotated[IfMissing, typer.Option("--if-missing", help="When there is no such key.")] = IfMissing.FAIL,
) -> None:
    """Revoke a key: from its next request on it is refused."""
    from proxyctl.resolve import find_key

    try:
        found = find_key(cli.client, key)
    except NotFoundError:
        if if_missing is IfMissing.SKIP:
            cli.tell(f"No key {key!r}, nothing to do.")
            return
        raise
    cli.confirm(f"This revokes key {found['name']} of {found['user_name']}", name=found["name"])
    cli.client.delete(f"/admin/access-keys/{found['id']}")
    cli.tell(f"Revoked key {found['name']} of {found['user_name']}.")


def _limits(requests: int | None, tokens: int | None, concurrent: int | None) -> dict[str, Any]:
    """Limits as the API takes them; 0 means none."""
    given = {
        "limit_requests_per_minute": requests,
        "limit_tokens_per_minute": tokens,
        "limit_concurrent_requests": concurrent,
    }
    return {name: value or None for name, value in given.items() if value is not None}


def _expiry(text: str) -> str | None:
    return expiry(text, datetime.now(UTC), option="--expires-at")


def seconds(text: str) -> int:
    """Seconds of a span such as 90s, 5m, 1h or 7d."""
    match = re.fullmatch(r"(\d{1,6})([smhd]?)", text)
    if not match:
        raise UsageError(f"{text!r}: expected a span such as 0s, 5m or 1h")
    return int(match[1]) * _UNITS[match[2] or "s"]


def _reveal(cli: Cli, key: dict[str, Any], output_file: str | None, emit: Emit) -> None:
    cli.tell(f"{key['result'].capitalize()} key {key['name']} ({key['key_prefix']}) for {key['user_name']}.")
    if output_file is None and (cli.printer.form or cli.options.query):
        cli.printer.item(key, [*COLUMNS, column("access key", "access_key")])
        return
    own_login = emit is not Emit.KEY and _needs_own_login(cli, key)
    text = rendered(key["access_key"], cli.server, emit, own_login=own_login)
    deliver(text, output_file, quiet=cli.quiet)


def _needs_own_login(cli: Cli, key: dict[str, Any]) -> bool:
    """Whether the developer has to bring a Claude login: the gateway has no key for the plan, and the plan is used."""
    facts = cli.client.get("/admin/system/status")["facts"]
    user = cli.client.get(f"/admin/users/{key['user_id']}")
    return not facts["plan_api_key_set"] and user["routing_strategy"] != "bedrock_only"


def _print(cli: Cli, key: dict[str, Any]) -> None:
    if cli.printer.form or cli.options.query:
        cli.printer.item(key, COLUMNS)
