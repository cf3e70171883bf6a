"""`proxyctl audit`."""

from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any
from uuid import UUID

import typer

from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.output import Row, column
from proxyctl.timespan import start_of

group = new_group("Who changed what, when and from where.")

COLUMNS = [
    column("at"),
    column("actor"),
    column("action"),
    ("object", lambda row: f"{row['object_type']}/{_name(row) or row['object_id']}"),
    column("from", "remote_address"),
    column("request id", "request_id"),
]


def _name(row: Row) -> str | None:
    """What the object was called, where the change says so."""
    return next((str(part["name"]) for part in (row["after"], row["before"]) if part and part.get("name")), None)


@register(group, "list")
def list_entries(
    cli: Cli,
    actor: Annotated[str | None, typer.Option("--actor", help="Only by this one, such as admin or token:ci.")] = None,
    action: Annotated[str | None, typer.Option("--action", help="Only this, such as access_key.create.")] = None,
    object_: Annotated[str | None, typer.Option("--object", help="TYPE, TYPE/ID or an id.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="7d, 24h, or an instant (RFC 3339).")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
    all_: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
) -> None:
    """Changes and sign-ins, newest first.

    Example: proxyctl audit list --since 24h --actor token:ci
    """
    query = {"actor": actor, "action": action, **_of_object(object_)}
    query["since"] = start_of(since, datetime.now(UTC)) if since else None
    entries = cli.client.items("/admin/audit", limit=500 if all_ else min(limit, 500), **query)
    items = list(entries if all_ else islice(entries, limit))
    cli.printer.rows({"items": items, "next_cursor": None}, COLUMNS)


def _of_object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    kind, slash, number = text.partition("/")
    if slash:
        return {"object_type": kind, "object_id": number}
    try:
        return {"object_id": str(UUID(text))}
    except ValueError:
        return {"object_type": text}
