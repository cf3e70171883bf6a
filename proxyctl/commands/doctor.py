"""`proxyctl doctor`."""

from typing import Annotated

import typer

from proxyctl import complete
from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.errors import ExitCode
from proxyctl.findings import Finding, print_findings
from proxyctl.output import Printer, dollars


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

        findings = examine(cli)
        # What a broken configuration says of the output is not known.
        broken = findings[0].status == "failed"
        printer = Printer(cli.options.output, cli.options.query) if broken else cli.printer
        if deep is not None:
            findings.append(_bedrock(cli, deep))
        print_findings(printer, findings)
        if any(finding.status == "failed" for finding in findings):
            raise typer.Exit(ExitCode.FAILED)


def _bedrock(cli: Cli, key: str) -> Finding:
    """One small call that costs a little."""
    from proxyctl.resolve import find_key

    tested = cli.client.post(f"/admin/access-keys/{find_key(cli.client, key)['id']}/bedrock-key/test", {})
    cost = dollars(tested["cost_nano_usd"])
    if tested["ok"]:
        detail, fix = f"{tested['bedrock_model']} answered in {tested['duration_ms']} ms for {cost}", None
    else:
        detail, fix = f"{tested['message']} ({cost})", f"proxyctl bedrock-keys set {key} …"
    return Finding("bedrock", "ok" if tested["ok"] else "failed", detail, fix)
