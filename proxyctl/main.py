"""The entry point: builds the command tree, and is the last boundary for errors."""

import os
import sys

import typer

from proxyctl import command
from proxyctl.command import Debug, NoInput, Output, Query, Quiet, Server, Timeout, TokenFile, Yes, is_json, write_error
from proxyctl.commands import (
    auth,
    bedrock_keys,
    budgets,
    circuits,
    compatibility,
    daemon,
    db,
    demo,
    init,
    keys,
    models,
    pricing,
    routing,
    status,
    topics,
    usage,
    users,
)
from proxyctl.context import Options
from proxyctl.errors import CliError, ExitCode

app = typer.Typer(
    name="proxyctl",
    help="Run and operate the gateway between Claude Code and its model providers.\n\n"
    "Start here:  proxyctl demo   (everything simulated)   or   proxyctl serve",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"proxyctl {version('claude-code-proxyctl')}\n")
        raise typer.Exit


@app.callback()
def root(
    server: Server = None,
    output: Output = None,
    token_file: TokenFile = None,
    query: Query = None,
    timeout: Timeout = None,
    quiet: Quiet = None,
    yes: Yes = None,
    no_input: NoInput = None,
    debug: Debug = None,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    command.set_root_options(Options(server, output, token_file, query, timeout, quiet, yes, no_input, debug))


for module in (daemon, demo, init, status, topics):
    module.register_commands(app)
for name, group in (
    ("auth", auth.group),
    ("users", users.group),
    ("keys", keys.group),
    ("bedrock-keys", bedrock_keys.group),
    ("budgets", budgets.group),
    ("models", models.group),
    ("pricing", pricing.group),
    ("routing", routing.group),
    ("circuits", circuits.group),
    ("compatibility", compatibility.group),
    ("usage", usage.group),
    ("db", db.group),
    ("daemon", daemon.group),
):
    app.add_typer(group, name=name)


def run() -> None:
    """Run the command line; ends the process with its exit code."""
    arguments = sys.argv[1:]
    try:
        app()
    except CliError as error:
        document = {
            "type": error.type,
            "message": error.message,
            "hint": error.hint,
            "request_id": error.request_id,
            "exit_code": int(error.exit_code),
        }
        write_error(document, as_json=is_json(arguments))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:  # the CLI's edge: one line for a person, the rest on demand
        if "--debug" in arguments or os.environ.get("PROXY_DEBUG"):
            raise
        unexpected = f"unexpected {type(error).__name__}: {error}"
        document = {
            "type": "bug",
            "message": unexpected,
            "hint": "run it again with --debug",
            "request_id": None,
            "exit_code": 1,
        }
        write_error(document, as_json=is_json(arguments))
        sys.exit(ExitCode.FAILED)
