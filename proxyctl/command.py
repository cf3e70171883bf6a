"""Registers commands: the global options work before and after the sub-command, errors become exit codes."""

import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from proxyctl.context import Cli, Options

Server = Annotated[str | None, typer.Option("--server", "-s", help="URL of the daemon. [env: PROXY_SERVER]")]
Output = Annotated[str | None, typer.Option("--output", "-o", help="table, json, yaml, csv or name.")]
TokenFile = Annotated[
    str | None, typer.Option("--token-file", help="Read the admin token from a file, or - for stdin.")
]
Query = Annotated[str | None, typer.Option("--query", help="JMESPath on the JSON form.")]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds to wait for the daemon.")]
Quiet = Annotated[bool | None, typer.Option("--quiet", "-q", help="Only the essential value.")]
Yes = Annotated[bool | None, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
NoInput = Annotated[bool | None, typer.Option("--no-input", help="Never prompt.")]
Debug = Annotated[bool | None, typer.Option("--debug", help="Show tracebacks.")]

_GLOBAL: dict[str, Any] = {
    "server": Server,
    "output": Output,
    "token_file": TokenFile,
    "query": Query,
    "timeout": Timeout,
    "quiet": Quiet,
    "yes": Yes,
    "no_input": NoInput,
    "debug": Debug,
}
root_options = Options()


def set_root_options(options: Options) -> None:
    """Keep what stood before the sub-command; a run has one command line."""
    global root_options
    root_options = options


def new_group(summary: str) -> typer.Typer:
    return typer.Typer(help=summary, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


def register(
    app: typer.Typer, name: str, *, hidden: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function whose first parameter is a `Cli`; it gets the global options besides its own."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = list(signature.parameters.values())[1:]
        shared = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for option, annotation in _GLOBAL.items()
        ]

        def run(**values: Any) -> None:
            options = Options(**{option: values.pop(option) for option in _GLOBAL})
            try:
                function(Cli(options.over(root_options)), **values)
                sys.stdout.flush()
            except BrokenPipeError:  # the reader has seen enough; caught here because Typer makes exit 1 of it
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit from None

        run.__name__ = function.__name__
        run.__doc__ = function.__doc__
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = signature.replace(parameters=[*parameters, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*parameters, *shared]}
        app.command(name, hidden=hidden)(run)
        return function

    return decorate


def is_json(arguments: list[str]) -> bool:
    """Whether the command line, or else PROXY_OUTPUT, asks for JSON; judged without parsing."""
    text = " ".join(arguments)
    if os.environ.get("PROXY_OUTPUT") == "json" and not any(a.startswith(("-o", "--output")) for a in arguments):
        return True
    return "-o json" in text or "-ojson" in text or "--output json" in text or "--output=json" in text


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
