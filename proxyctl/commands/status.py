"""`proxyctl status`: one screen."""

import typer

from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.output import column, dollars


def register_commands(app: typer.Typer) -> None:
    @register(app, "status")
    def status(cli: Cli) -> None:
        """Is the daemon up, which version, which store, this month's spend."""
        system = cli.client.get("/admin/system/status")
        month = cli.client.get("/admin/usage", period="month")["totals"]
        document = {"server": cli.server, **system, "month": month}
        columns = [
            column("server"),
            column("version"),
            ("database", lambda row: "ok" if row["database_ok"] else "away"),
            *[(name, lambda row, name=name: row["facts"][name]) for name in system["facts"]],
            ("requests this month", lambda row: row["month"]["requests"]),
            ("spent this month", lambda row: dollars(row["month"]["cost_nano_usd"])),
        ]
        cli.printer.item(document, columns, name="version")
