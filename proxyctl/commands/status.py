"""`proxyctl status`: one screen."""

import sys
from collections.abc import Iterator
from typing import Any

import typer

from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.output import bar, clean, column, dollars

_MOST = 5
_COLUMNS = [
    column("server"),
    column("version"),
    ("database", lambda row: "ok" if row["database_ok"] else "away"),
    ("requests this month", lambda row: row["month"]["requests"]),
    ("spent this month", lambda row: dollars(row["month"]["cost_nano_usd"])),
]


def register_commands(app: typer.Typer) -> None:
    @register(app, "status")
    def status(cli: Cli) -> None:
        """One screen about the daemon. Is it up, what does it forward to, what did this month cost, and whom.

        Example: proxyctl status -o json --query facts.circuits_open
        """
        cli.new_client(None).raw("GET", "/healthz", None)  # whether it is up can be said without a sign-in
        system = cli.client.get("/admin/system/status")
        top = cli.client.get("/admin/usage/top-users", period="month", limit=_MOST)["items"]
        month = cli.client.get("/admin/usage", period="month")["totals"]
        document = {"server": cli.server, **system, "month": month, "top_users": top}
        if cli.printer.form in (None, "table") and not cli.options.query:
            sys.stdout.write("".join(f"{title:<12}{clean(text)}".rstrip() + "\n" for title, text in _screen(document)))
        else:
            cli.printer.item(document, _COLUMNS, name="version")


def _screen(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    facts, month = document["facts"], document["month"]
    yield "daemon", f"{document['server']}  version {document['version']}"
    schema = f"schema {document.get('schema_revision')}"
    yield "database", f"{facts['database']}, {schema}" if document["database_ok"] else f"{facts['database']} is away"
    login = "the company's key" if facts["plan_api_key_set"] else "each developer's own login"
    yield "plan", f"{facts['plan_api_url']} with {login}"
    yield "bedrock", f"region {facts['bedrock_region']} where a key names none"
    yield "circuits", f"{facts['circuits_open']} open" if facts["circuits_open"] else "none open"
    yield "budgets", f"mode {facts['budget_mode']}, scope {facts['budget_scope']}"
    unknown = ", ".join(f"{row['model']} ({row['provider']})" for row in facts["prices_unknown"][:3])
    yield "prices", f"sheet {facts['price_sheet']}{f'; without a price: {unknown}' if unknown else ''}"
    yield "ledger", f"{facts['ledger_pending']} on their way, {facts['ledger_failures']} writes failed"
    plural = "" if month["requests"] == 1 else "s"
    yield "this month", f"{month['requests']:,} request{plural}, {dollars(month['cost_nano_usd'])}"
    names = [str(user["name"] or user["group"]) for user in document["top_users"]]
    width = max(map(len, names), default=0)
    most = max((user["cost_nano_usd"] for user in document["top_users"]), default=0)
    for name, user in zip(names, document["top_users"], strict=True):
        cost = user["cost_nano_usd"]
        yield "", f"{name:<{width}}  {dollars(cost):>10}  {bar(cost, most)}"
