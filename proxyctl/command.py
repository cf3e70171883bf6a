"""Registers commands: the global options work before and after the sub-command, errors become exit codes."""

import copy
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer

from proxyctl import complete
from proxyctl.context import Cli, Options
from proxyctl.errors import UsageError
from proxyctl.output import abandon

Server = Annotated[str | None, typer.Option("--server", "-s", help="URL of the daemon. [env: PROXY_SERVER]")]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile", "-p", help="Section of config.toml. [env: PROXY_PROFILE]", autocompletion=complete.profiles
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", help="table, json, yaml, csv or name. [env: PROXY_OUTPUT]", autocompletion=complete.formats
    ),
]
TokenFile = Annotated[
    str | None, typer.Option("--token-file", help="Read the admin token from a file, or - for stdin.")
]
Query = Annotated[str | None, typer.Option("--query", help="JMESPath on the JSON form.")]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds to wait for the daemon.")]
CaBundle = Annotated[str | None, typer.Option("--ca-bundle", help="Certificates to trust. [env: PROXY_CA_BUNDLE]")]
AllowHttp = Annotated[bool | None, typer.Option("--allow-http", help="Allow plain HTTP to other machines.")]
Quiet = Annotated[bool | None, typer.Option("--quiet", "-q", help="Only the essential value.")]
Yes = Annotated[bool | None, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
NoInput = Annotated[bool | None, typer.Option("--no-input", help="Never prompt.")]
DryRun = Annotated[bool | None, typer.Option("--dry-run", help="Show what would be sent, change nothing.")]
NoColor = Annotated[bool | None, typer.Option("--no-color", help="No colour. [env: NO_COLOR]")]
Verbose = Annotated[bool | None, typer.Option("--verbose", "-v", help="Show each call to the daemon.")]
Debug = Annotated[bool | None, typer.Option("--debug", help="Show each call, and tracebacks.")]

GLOBAL: dict[str, Any] = {
    "server": Server,
    "profile": Profile,
    "output": Output,
    "token_file": TokenFile,
    "query": Query,
    "timeout": Timeout,
    "ca_bundle": CaBundle,
    "allow_http": AllowHttp,
    "quiet": Quiet,
    "yes": Yes,
    "no_input": NoInput,
    "dry_run": DryRun,
    "no_color": NoColor,
    "verbose": Verbose,
    "debug": Debug,
}
_ELSEWHERE = "Besides: --server, --profile, -o, --query, --dry-run, --yes and the other options of proxyctl --help."


def _unlisted(annotation: Any) -> Any:
    """The same option, not listed in the help of each command again."""
    kind, option = get_args(annotation)
    option = copy.copy(option)
    option.hidden = True
    return Annotated[kind, option]


_UNLISTED = {name: _unlisted(annotation) for name, annotation in GLOBAL.items()}
root_options = Options()


def set_root_options(options: Options) -> None:
    """Keep what stood before the sub-command; a run has one command line."""
    global root_options
    root_options = options


def new_group(summary: str) -> typer.Typer:
    return typer.Typer(help=summary, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


def register(
    app: typer.Typer, name: str, *, hidden: bool = False, can_rehearse: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function whose first parameter is a `Cli`; it gets the global options besides its own.

    A command that changes something on this machine and cannot show it first refuses `--dry-run`: `can_rehearse`.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = list(signature.parameters.values())[1:]
        shared = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for option, annotation in _UNLISTED.items()
        ]

        def run(**values: Any) -> None:
            options = Options(**{option: values.pop(option) for option in GLOBAL})
            options = options.over(root_options)
            if options.no_color:
                os.environ["NO_COLOR"] = "1"  # where every library looks
            if options.dry_run and not can_rehearse:
                raise UsageError(f"--dry-run: {name} cannot show what it would do")
            try:
                function(Cli(options), **values)
                sys.stdout.flush()
            except BrokenPipeError:  # the reader has seen enough; caught here because Typer makes exit 1 of it
                abandon()
                raise typer.Exit from None

        run.__name__ = function.__name__
        run.__doc__ = function.__doc__
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = signature.replace(parameters=[*parameters, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*parameters, *shared]}
        app.command(name, hidden=hidden, epilog=_ELSEWHERE)(run)
        return function

    return decorate


def is_json(arguments: list[str]) -> bool:
    """Whether the command line, or else PROXY_OUTPUT, asks for JSON; judged without parsing."""
    for at, argument in enumerate(arguments):
        if argument in ("-o", "--output"):
            return arguments[at + 1 : at + 2] == ["json"]
        if argument.startswith(("-o", "--output=")):
            return argument in ("-ojson", "-o=json", "--output=json")
    return os.environ.get("PROXY_OUTPUT") == "json"


def write_error(document: dict[str, Any], *, as_json: bool) -> None:
    """An error on standard error: for a program one JSON object, for a person a sentence and a hint."""
    if as_json:
        import json

        sys.stderr.write(json.dumps({"error": document}) + "\n")
        return
    sys.stderr.write(f"error: {document['message']}\n")
    if document["hint"]:
        sys.stderr.write(f"hint:  {document['hint']}\n")
    if document["request_id"]:
        sys.stderr.write(f"       request id {document['request_id']}\n")
