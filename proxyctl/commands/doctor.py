"""`proxyctl doctor`."""

from typing import Annotated

import typer

from proxyctl import complete
from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.errors import ExitCode
from proxyctl.findings import print_findings
from proxyctl.output import Printer


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
        """Check this machine, the way to the daemon, and the daemon. Findings say what to do. Exit 1 if any failed.

        Example: proxyctl doctor --server https://gateway.example.com
        """
        from proxyctl.doctor import examine

        findings = examine(cli, deep)
        # What a broken configuration says of the output is not known.
        broken = findings[0].status == "failed"
        printer = Printer(cli.options.output, cli.options.query) if broken else cli.printer
        print_findings(printer, findings)
        if any(finding.status == "failed" for finding in findings):
            raise typer.Exit(ExitCode.FAILED)
