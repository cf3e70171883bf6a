"""`proxyctl doctor`."""

import sys
from typing import Annotated, Any

import typer

from proxyctl import complete
from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.errors import ExitCode
from proxyctl.output import Printer, clean, column, dollars

COLUMNS = [column("name"), column("status"), column("detail"), column("fix")]
_SIGNS = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "-"}


def register_commands(app: typer.Typer) -> None:
    @register(app, "doctor")
    def doctor(
        cli: Cli,
        deep: Annotated[
            str | None,
            typer.Option(
                "--deep",
                help="Also make one paid call to Bedrock with this access key's Bedrock key.",
                autocompletion=complete.keys,
            ),
        ] = None,
    ) -> None:
        """Check everything between this machine and the providers; each finding says what to do. Exit 1 if any failed.

        Example: proxyctl doctor --server https://gateway.example.com
        """
        from proxyctl.doctor import examine

        findings = [finding.document() for finding in examine(cli)]
        if findings[0]["status"] == "failed":  # what a broken profile says of the output is not known
            cli.printer = Printer(cli.options.output, cli.options.query)
        if deep is not None:
            findings.append(_bedrock(cli, deep))
        if cli.printer.form in ("json", "yaml") or cli.options.query:
            cli.printer.item({"checks": findings}, COLUMNS, name="checks")
        elif cli.printer.form or not sys.stdout.isatty():
            cli.printer.rows({"items": findings}, COLUMNS, name="name")
        else:
            for row in findings:
                sys.stdout.write(
                    f"{_SIGNS[row['status']]} {row['name']:<14} {row['status']:<8} {clean(row['detail'])}\n"
                )
                if row["fix"] and row["status"] != "ok":
                    sys.stdout.write(f"{'':<26}→ {row['fix']}\n")
        if any(row["status"] == "failed" for row in findings):
            raise typer.Exit(ExitCode.FAILED)


def _bedrock(cli: Cli, key: str) -> dict[str, Any]:
    """One small call that costs a little."""
    from proxyctl.resolve import find_key

    tested = cli.client.post(f"/admin/access-keys/{find_key(cli.client, key)['id']}/bedrock-key/test", {})
    cost = dollars(tested["cost_nano_usd"])
    if tested["ok"]:
        detail, fix = f"{tested['bedrock_model']} answered in {tested['duration_ms']} ms for {cost}", None
    else:
        detail, fix = f"{tested['message']} ({cost})", f"proxyctl bedrock-keys set {key} …"
    return {"name": "bedrock", "status": "ok" if tested["ok"] else "failed", "detail": detail, "fix": fix}
