"""`proxyctl version` and `proxyctl completion`."""

from enum import StrEnum
from typing import Annotated

import typer

from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.output import column

COMPLETE_VARIABLE = "_PROXYCTL_COMPLETE"


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


def register_commands(app: typer.Typer) -> None:
    @register(app, "version")
    def version(
        cli: Cli,
        daemon: Annotated[bool, typer.Option("--daemon", help="The daemon's too; exit 8 when they differ.")] = False,
    ) -> None:
        """The version here. With --daemon, whether the daemon has the same.

        Example: proxyctl version --daemon --server https://gateway.example.com
        """
        from importlib.metadata import version as installed

        document: dict[str, object] = {"client": installed("claude-code-proxyctl")}
        columns = [column("client")]
        if daemon:
            there = cli.client.get("/admin/system/status")["version"]
            document |= {"daemon": there, "agree": there == document["client"]}
            columns += [column("daemon"), column("agree")]
        cli.printer.item(document, columns, name="client")
        if document.get("agree") is False:
            raise typer.Exit(8)

    @register(app, "completion")
    def completion(cli: Cli, shell: Annotated[Shell, typer.Argument(help="bash, zsh, fish or powershell.")]) -> None:
        """Print the completion script of a shell. Users, keys, models and profiles are completed too.

        Example: proxyctl completion bash > ~/.local/share/bash-completion/completions/proxyctl

        Example: proxyctl completion zsh > "${fpath[1]}/_proxyctl"

        Example: proxyctl completion fish > ~/.config/fish/completions/proxyctl.fish
        """
        from typer.completion import get_completion_script  # type: ignore[attr-defined]

        typer.echo(get_completion_script(prog_name="proxyctl", complete_var=COMPLETE_VARIABLE, shell=shell.value))
