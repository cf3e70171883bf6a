"""`proxyctl models`."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from proxyctl import complete
from proxyctl.command import new_group, register
from proxyctl.commands.users import IfMissing
from proxyctl.context import Cli
from proxyctl.errors import ConflictError, NotFoundError
from proxyctl.output import column

group = new_group("Which model on Bedrock stands in for which of Claude Code's.")

COLUMNS = [
    column("model", "claude_model"),
    column("bedrock model", "bedrock_model"),
    column("source"),
    column("route"),
    column("effective"),
    column("price known", "price_known"),
    column("description"),
    column("id"),
]
RESOLUTION = [
    column("model"),
    column("mapped"),
    column("reason"),
    column("source"),
    column("bedrock model", "bedrock_model"),
    ("then tried", lambda row: " ".join(row["alternatives"]) or None),
    column("route"),
    ("region", lambda row: f"{row['region']} ({row['region_source'].replace('_', ' ')})"),
    column("profile"),
    column("price known", "price_known"),
    column("price region", "price_region"),
    column("user", "user_name"),
    column("key", "access_key_name"),
    column("bedrock key", "has_bedrock_key"),
    column("strategy", "routing_strategy"),
    ("providers", lambda row: ", then ".join(row["providers"]) or None),
]

ModelArgument = Annotated[
    str,
    typer.Argument(help="The model as Claude Code asks for it; [1m] does not matter.", autocompletion=complete.models),
]


class IfExists(StrEnum):
    """What `map` does when the model is mapped already."""

    FAIL = "fail"
    SKIP = "skip"
    UPDATE = "update"


@register(group, "list")
def list_mappings(cli: Cli) -> None:
    """All mappings: your own, the environment's, the packaged. Of one model the first is effective."""
    document = {"items": list(cli.client.items("/admin/model-mappings", limit=500)), "next_cursor": None}
    cli.printer.rows(document, COLUMNS, name="claude_model")


@register(group, "resolve")
def resolve_model(
    cli: Cli,
    model: ModelArgument,
    key: Annotated[str | None, typer.Option("--key", help="For this access key, with its region and profile.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="For this user, with the strategy.")] = None,
    region: Annotated[str | None, typer.Option("--region", help="As if from this AWS region.")] = None,
) -> None:
    """What would happen to a request for a model; no provider is called.

    Example: proxyctl models resolve claude-opus-5-5 --key alice/laptop
    """
    from proxyctl.resolve import find_key, find_user

    query = {
        "model": model,
        "region": region,
        "access_key_id": find_key(cli.client, key)["id"] if key else None,
        "user_id": find_user(cli.client, user)["id"] if user else None,
    }
    found = cli.client.get("/admin/models/resolve", **query)
    shown = [title for title in RESOLUTION if title[1](found) is not None]
    cli.printer.item(found, RESOLUTION if cli.printer.form == "csv" else shown, name="bedrock_model")


@register(group, "map")
def map_model(
    cli: Cli,
    model: ModelArgument,
    upstream_id: Annotated[str, typer.Argument(help="A Bedrock id, an inference profile, or the ARN of one.")],
    description: Annotated[str | None, typer.Option("--description", help="Free text.")] = None,
    if_exists: Annotated[IfExists, typer.Option("--if-exists", help="When the model is mapped.")] = IfExists.FAIL,
) -> None:
    """Map a model, over what the environment and the package say.

    Example: proxyctl models map claude-opus-5-5 eu.anthropic.claude-opus-5-5
    """
    body = {"bedrock_model": upstream_id} | ({} if description is None else {"description": description})
    try:
        mapping = cli.client.post("/admin/model-mappings", {"claude_model": model} | body)
    except ConflictError as error:
        existing = _own(cli, model)
        if existing is None or if_exists is IfExists.FAIL:
            error.hint = "to keep it: --if-exists skip      to change it: --if-exists update"
            raise
        mapping = existing | {"result": "unchanged"}
        if if_exists is IfExists.UPDATE:
            mapping = _update(cli, existing, body)
    cli.tell(f"{mapping['result'].capitalize()} mapping {mapping['claude_model']} -> {mapping['bedrock_model']}.")
    if not mapping["price_known"]:
        cli.tell("The price of that model is not known: its cost will be estimated at the dearest known price.")
    _print(cli, mapping)


@register(group, "unmap")
def unmap_model(
    cli: Cli,
    model: ModelArgument,
    if_missing: Annotated[IfMissing, typer.Option("--if-missing", help="When it is not mapped.")] = IfMissing.FAIL,
) -> None:
    """Take a mapping of your own back. The model goes where the environment or the package says."""
    mapping = _own(cli, model)
    if mapping is None:
        if if_missing is IfMissing.SKIP:
            cli.tell(f"No mapping of {model!r}, nothing to do.")
            return
        raise NotFoundError(f"model {model!r} has no mapping in the database", hint="proxyctl models list")
    cli.client.delete(f"/admin/model-mappings/{mapping['id']}")
    cli.tell(f"Deleted mapping {mapping['claude_model']} -> {mapping['bedrock_model']}.")


def _own(cli: Cli, model: str) -> dict[str, Any] | None:
    """The database's mapping of a model; the others cannot be changed here."""
    return next(cli.client.items("/admin/model-mappings", claude_model=model, source="database"), None)


def _update(cli: Cli, mapping: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    if all(mapping[field] == value for field, value in body.items()):
        return mapping | {"result": "unchanged"}
    path = f"/admin/model-mappings/{mapping['id']}"
    return cli.client.put(path, body, version=mapping["version"]) | {"result": "updated"}


def _print(cli: Cli, mapping: dict[str, Any]) -> None:
    if cli.quiet:
        typer.echo(mapping["id"])
    elif cli.printer.form or cli.options.query:
        cli.printer.item(mapping, COLUMNS)
