"""`proxyctl compatibility`."""

from typing import Annotated
from urllib.parse import quote, urlencode

import typer

from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.errors import UsageError
from proxyctl.output import column

group = new_group("What was learned about providers: what a model does not take.")

COLUMNS = [
    column("provider"),
    column("region"),
    column("model"),
    column("kind"),
    column("value"),
    column("reason"),
    column("expires", "expires_at"),
    column("id"),
]

Provider = Annotated[str | None, typer.Option("--provider", help="Only this provider's.")]
Model = Annotated[str | None, typer.Option("--model", help="Only this model's, as it is sent to the provider.")]


@register(group, "list")
def list_learned(cli: Cli, provider: Provider = None, model: Model = None) -> None:
    """What is believed now. It expires by itself."""
    items = list(cli.client.items("/admin/compatibility", provider=provider, model=model))
    cli.printer.rows({"items": items, "next_cursor": None}, COLUMNS)


@register(group, "forget")
def forget(
    cli: Cli,
    learned_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="From the list.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of it.")] = False,
    provider: Provider = None,
    model: Model = None,
) -> None:
    """Forget one thing, all that matches, or everything. The next request tries it again.

    Example: proxyctl compatibility forget --model eu.anthropic.claude-opus-5-5
    """
    only = {name: value for name, value in (("provider", provider), ("model", model)) if value is not None}
    if [learned_id is not None, everything, bool(only)].count(True) != 1:
        raise UsageError(
            "say what to forget: an ID, --provider and --model, or --all", hint="proxyctl compatibility list"
        )
    if learned_id is not None:
        cli.client.delete(f"/admin/compatibility/{quote(learned_id, safe='')}")
        answer = {"forgotten": 1}
    else:
        answer = cli.client.delete("/admin/compatibility" + (f"?{urlencode(only)}" if only else ""))
    cli.tell(f"Forgot {answer['forgotten']}.")
    if cli.printer.form or cli.options.query:
        cli.printer.item(answer, [column("forgotten")], name="forgotten")
