"""`proxyctl tokens`."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from proxyctl import complete
from proxyctl.command import new_group, register
from proxyctl.commands.users import IfMissing
from proxyctl.context import Cli
from proxyctl.errors import ConflictError, NotFoundError, UsageError
from proxyctl.output import column
from proxyctl.reveal import check_output_file, deliver
from proxyctl.timespan import expiry

group = new_group("Service tokens: what CI signs in with.")

COLUMNS = [
    column("token", "token_prefix"),
    column("name"),
    ("scopes", lambda row: " ".join(row["scopes"])),
    column("status"),
    column("last used", "last_used_at"),
    column("expires", "expires_at"),
    column("id"),
]


@register(group, "list")
def list_tokens(cli: Cli) -> None:
    """Tokens that are not revoked; never their secrets."""
    cli.printer.rows({"items": list(cli.client.items("/admin/tokens")), "next_cursor": None}, COLUMNS)


@register(group, "create")
def create_token(
    cli: Cli,
    name: Annotated[str, typer.Argument(help="Unique among tokens that are not revoked.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="NOUN:read, NOUN:write or admin; may be repeated.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", help="90d, 12h, 4w, an instant (RFC 3339), or never.")
    ] = None,
    output_file: Annotated[
        str | None, typer.Option("--output-file", help="Write to this new file (mode 0600).")
    ] = None,
) -> None:
    """Create a service token; it is shown once.

    Example: proxyctl tokens create ci --scope users:read --scope keys:write --expires 90d --output-file token
    """
    if not scope:
        raise UsageError("a token without a scope can do nothing", hint="--scope users:read --scope keys:write")
    if expires is None:
        raise UsageError("say how long the token lives", hint="--expires 90d      or --expires never")
    check_output_file(output_file)
    body = {"name": name, "scopes": scope, "expires_at": expiry(expires, datetime.now(UTC))}
    try:
        token = cli.client.post("/admin/tokens", body)
    except ConflictError as error:
        error.hint = f"proxyctl tokens revoke {name}      or take another name"
        raise
    cli.tell(f"Created token {token['name']} ({token['token_prefix']}), expires {token['expires_at'] or 'never'}.")
    if output_file is None and not cli.quiet and (cli.printer.form or cli.options.query):
        cli.printer.item(token, [*COLUMNS, column("secret", "token")])
        return
    again = f"proxyctl tokens revoke {name}, and create it again"
    deliver(f"{token['token']}\n", output_file, quiet=cli.quiet, noun="token", again=again)


@register(group, "revoke")
def revoke_token(
    cli: Cli,
    name: Annotated[
        str,
        typer.Argument(help="The token's name, id, or the prefix that is shown of it.", autocompletion=complete.tokens),
    ],
    if_missing: Annotated[
        IfMissing, typer.Option("--if-missing", help="When there is no such token.")
    ] = IfMissing.FAIL,
) -> None:
    """Revoke a token. From its next request on it is refused, on every replica."""
    found = _find(cli, name)
    if found is None:
        if if_missing is IfMissing.FAIL:
            raise NotFoundError(f"no service token {name!r}", hint="proxyctl tokens list")
        cli.tell(f"No token {name!r}, nothing to do.")
        return
    cli.confirm(f"This revokes token {found['name']}", name=found["name"])
    revoked = cli.client.delete(f"/admin/tokens/{found['id']}")
    cli.tell(f"Revoked token {found['name']}.")
    if cli.printer.form or cli.options.query:
        cli.printer.item(revoked | {"result": "revoked"}, COLUMNS)


def _find(cli: Cli, wanted: str) -> dict[str, Any] | None:
    """A token by its name, id or shown prefix; a name comes first."""
    tokens = list(cli.client.items("/admin/tokens"))
    for field, value in (("name", wanted), ("id", wanted.lower()), ("token_prefix", wanted.removesuffix("…") + "…")):
        found = [token for token in tokens if token[field] == value]
        if len(found) > 1:
            raise UsageError(f"token {wanted!r} is ambiguous: {', '.join(token['name'] for token in found)}")
        if found:
            return found[0]
    return None
