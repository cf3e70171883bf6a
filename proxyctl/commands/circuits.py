"""`proxyctl circuits`."""

from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer

from proxyctl import complete
from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.errors import NotFoundError
from proxyctl.output import column

group = new_group("Providers that failed and are left alone for a while.")

COLUMNS = [
    ("for", lambda row: f"{row['user_name']}/{row['access_key_name']}" if row["user_name"] else row["scope_id"]),
    column("scope"),
    column("provider"),
    column("state"),
    column("seconds left", "seconds_left"),
    column("failures"),
    column("last failure", "last_failure"),
    column("probing", "probe_running"),
    column("id"),
]


class State(StrEnum):
    """As the daemon tells it."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


Provider = Annotated[str | None, typer.Option("--provider", help="Only this provider's: plan or bedrock.")]
KeyArgument = Annotated[
    str,
    typer.Argument(
        help="USER/NAME, id or prefix of an access key, or the id of a circuit.", autocompletion=complete.keys
    ),
]


@register(group, "list")
def list_circuits(
    cli: Cli,
    provider: Provider = None,
    state: Annotated[State | None, typer.Option("--state", help="closed, open or half_open.")] = None,
) -> None:
    """All circuits that had a failure to count."""
    items = list(cli.client.items("/admin/circuits", provider=provider, state=state))
    cli.printer.rows({"items": items, "next_cursor": None}, COLUMNS)


@register(group, "get")
def get_circuits(cli: Cli, key: KeyArgument, provider: Provider = None) -> None:
    """The circuits of an access key. None means that nothing failed."""
    cli.printer.rows({"items": _find(cli, key, provider), "next_cursor": None}, COLUMNS)


@register(group, "reset")
def reset_circuits(cli: Cli, key: KeyArgument, provider: Provider = None) -> None:
    """Forget the circuits of an access key. From the next request on its providers are tried again.

    Example: proxyctl circuits reset alice/laptop --provider plan
    """
    done = []
    for circuit in _find(cli, key, provider):
        try:
            cli.client.post(f"/admin/circuits/{circuit['id']}/reset", {})
        except NotFoundError:  # it closed in the meantime
            continue
        done.append(circuit | {"result": "reset"})
    what = ", ".join(f"{circuit['provider']} (was {circuit['state']})" for circuit in done)
    cli.tell(f"Reset {what}." if done else f"No circuit of {key!r}, nothing to do.")
    if cli.printer.form or cli.options.query:
        cli.printer.rows({"items": done, "next_cursor": None}, COLUMNS)


def _find(cli: Cli, wanted: str, provider: str | None) -> list[dict[str, Any]]:
    """The circuits of a key, or the one circuit with that id."""
    from proxyctl.resolve import find_key

    if _is_id(wanted):
        found = [item for item in cli.client.items("/admin/circuits") if item["id"] == wanted.lower()]
        if found:
            return found
    key = find_key(cli.client, wanted)
    return list(cli.client.items("/admin/circuits", access_key_id=key["id"], provider=provider))


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
