"""`proxyctl pricing`: what tokens cost, and computing anew what they have cost."""

import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.errors import CliError, ExitCode, UsageError
from proxyctl.output import Row, clean, column, dollars

group = new_group("Prices of models, per million tokens.")

RATES = [
    column("input", "input_price_per_million"),
    column("output", "output_price_per_million"),
    column("write 5m", "cache_write_5m_price_per_million"),
    column("write 1h", "cache_write_1h_price_per_million"),
    column("read", "cache_read_price_per_million"),
]
PRICES = [
    column("provider"),
    column("region"),
    column("model"),
    ("tier", lambda row: row.get("tier", "standard")),
    *RATES,
    column("from", "effective_date"),
    ("source", lambda row: row["source"] + (" (upcoming)" if row["upcoming"] else "")),
]
CHANGES = [
    ("", lambda row: {"added": "+", "changed": "~", "removed": "-"}[row["change"]]),
    column("provider"),
    column("region"),
    column("model"),
    column("from", "effective_date"),
    ("difference", lambda row: _difference(row)),
]
REPRICED = [
    column("provider"),
    column("model"),
    column("rows"),
    column("changed"),
    ("before", lambda row: dollars(row["before_nano_usd"])),
    ("after", lambda row: dollars(row["after_nano_usd"])),
]
_FIGURES = ("rows", "changed", "before_nano_usd", "after_nano_usd")

Sheet = Annotated[Path, typer.Argument(help="A price sheet, or prices in the form of PROXY_MODEL_PRICING; - is stdin.")]
Force = Annotated[bool, typer.Option("--force", help="Take prices over 20 times away from the packaged ones.")]


class Provider(StrEnum):
    PLAN = "plan"
    BEDROCK = "bedrock"


@register(group, "list")
def list_prices(
    cli: Cli,
    provider: Annotated[Provider | None, typer.Option("--provider", help="Only this provider's.")] = None,
    region: Annotated[str | None, typer.Option("--region", help="global, us, eu, …")] = None,
    model: Annotated[str | None, typer.Option("--model", help="By any of its names.")] = None,
) -> None:
    """The prices in use, and those that are to come. With their tiers, and where they come from.

    Example: proxyctl pricing list --provider bedrock --region eu
    """
    document = cli.client.get("/api/pricing/models", provider=provider, region=region, model=model)
    if cli.printer.form not in ("json", "yaml") and not cli.options.query:
        document = document | {"items": [row for item in document["items"] for row in _tiers(item)]}
    cli.printer.rows(document, PRICES, name="model")


@register(group, "validate")
def validate(cli: Cli, file: Sheet, force: Force = False) -> None:
    """Whether a price sheet can be used; asks nobody. Problems come with line and column; exit 1 if there are any."""
    from daemon.core.price_sheets import PriceSheetError, load_sheet, overlay
    from daemon.resources import data_file

    packaged = load_sheet(data_file("models.json").read_bytes())
    try:
        overlay(packaged, _text(file).encode(), source="file", packaged=packaged, force=force)
    except PriceSheetError as error:
        problems = [f"{file}: {problem}" for problem in error.problems]
        raise CliError("\n       ".join(clean(problem) for problem in problems)) from None
    cli.tell("ok")


@register(group, "diff")
def diff(cli: Cli, file: Sheet) -> None:
    """What uploading a price sheet would change; nothing is changed. Exit 8 when it would."""
    answer = cli.client.post("/api/pricing/reload", {"sheet": _text(file), "force": True, "dry_run": True})
    cli.printer.rows(answer, CHANGES, name="model")
    if answer["items"]:
        raise typer.Exit(ExitCode.DIFFERENT)


@register(group, "reload")
def reload(
    cli: Cli,
    file: Annotated[Path | None, typer.Option("--file", help="Upload this sheet; - is stdin.")] = None,
    force: Force = False,
) -> None:
    """Load prices again, on every replica. Those of a file, else what is configured (and no uploaded sheet).

    A sheet that cannot be used changes nothing. Example: proxyctl pricing reload --file prices.json
    """
    body: dict[str, Any] = {} if file is None else {"sheet": _text(file)}
    body |= {name: True for name, given in (("force", force), ("dry_run", cli.dry_run)) if given}
    answer = cli.client.post("/api/pricing/reload", body)
    cli.printer.rows(answer, CHANGES, name="model")
    would = "would be " if cli.dry_run else ""
    cli.tell(f"{would}{answer['added']} added, {answer['changed']} changed, {answer['removed']} removed.".capitalize())


@register(group, "reprice")
def reprice(
    cli: Cli,
    since: Annotated[str, typer.Option("--from", help="Day or RFC 3339 instant.")],
    until: Annotated[str | None, typer.Option("--to", help="Day or instant, not included; else now.")] = None,
) -> None:
    """Compute the cost of past requests anew. With the prices that are in use now.

    It may be broken off and done again at any time. Example: proxyctl pricing reprice --from 2026-11-01 --dry-run
    """
    body = {
        "since": _instant(since),
        "until": _instant(until) if until else datetime.now(UTC).isoformat(),
        "dry_run": cli.dry_run,
    }
    cli.confirm(f"Costs from {body['since']} to {body['until']} are overwritten", name="reprice")
    total = _run(cli, body)
    cli.printer.rows(total, REPRICED, name="model")
    change = total["after_nano_usd"] - total["before_nano_usd"]
    verb = "would change" if cli.dry_run else "changed"
    cli.tell(
        f"{total['rows']} rows, {total['changed']} {verb}: {dollars(total['before_nano_usd'])} ->"
        f" {dollars(total['after_nano_usd'])} ({'-' if change < 0 else '+'}{dollars(abs(change))})."
    )
    if total["skipped"]:
        cli.tell(f"{total['skipped']} rows of erased users or keys were left as they are.")


def _run(cli: Cli, body: dict[str, Any]) -> dict[str, Any]:
    """All steps, added up."""
    models: dict[tuple[str, str], dict[str, Any]] = {}
    total: dict[str, Any] = dict.fromkeys((*_FIGURES, "skipped"), 0)
    cursor: str | None = None
    while True:
        step = cli.client.post("/admin/pricing/reprice", body | ({"cursor": cursor} if cursor else {}))
        for name in total:
            total[name] += step[name]
        for item in step["items"]:
            sums = models.setdefault((item["provider"], item["model"]), item | dict.fromkeys(_FIGURES, 0))
            for name in _FIGURES:
                sums[name] += item[name]
        cursor = step["next_cursor"]
        if not cursor:
            break
        cli.tell(f"{total['rows']} rows, at {step['reached']}")
    items = [models[key] for key in sorted(models)]
    return {"sheet_id": step["sheet_id"], "dry_run": step["dry_run"], **total, "items": items, "next_cursor": None}


def _text(file: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return data.decode()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CliError(f"{file}: is not UTF-8 (byte {error.start})") from error


def _instant(text: str) -> str:
    """An instant in the form of the API; a day begins at midnight UTC."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r}: expected a day such as 2026-11-01, or an RFC 3339 instant") from None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).isoformat()


def _tiers(item: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for the price, and one for each tier and factor of it."""
    rows = [item]
    for tier in ("long_context", "fast"):
        if item[tier]:
            above = item[tier]["above_prompt_tokens"]
            rows.append(item | item[tier] | {"tier": f"over {above} tokens" if above else tier})
    fields = [field for field in item if field.endswith("_price_per_million")]
    for geo, factor in item["inference_geo"].items():
        rows.append(item | dict.fromkeys(fields, f"x {factor}") | {"tier": f"inference in {geo}"})
    return rows


def _difference(row: Row) -> str:
    names = sorted(row["old"].keys() | row["new"].keys())
    if row["change"] != "changed":
        side = row["new"] or row["old"]
        return ", ".join(f"{name} {side[name]}" for name in names)
    return ", ".join(f"{name} {row['old'].get(name, 'none')} -> {row['new'].get(name, 'none')}" for name in names)
