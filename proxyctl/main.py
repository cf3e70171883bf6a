"""The entry point: builds the command tree, and is the last boundary for errors."""

import errno
import os
import sys
from functools import cache
from inspect import Parameter, Signature
from io import TextIOWrapper
from typing import Any

import typer
from typer.core import TyperGroup

from proxyctl import command
from proxyctl.command import GLOBAL, is_json, write_error
from proxyctl.commands import (
    api,
    audit,
    auth,
    bedrock_keys,
    budgets,
    circuits,
    claude,
    compatibility,
    config,
    daemon,
    db,
    demo,
    doctor,
    init,
    keys,
    manifest,
    models,
    pricing,
    routing,
    status,
    tokens,
    top,
    topics,
    usage,
    users,
    version,
)
from proxyctl.context import Options
from proxyctl.errors import CliError, ExitCode, UsageError
from proxyctl.output import abandon

# The paths of the API are plural, and so are the nouns; who types the singular is understood.
_SINGULAR = {
    "user": "users",
    "key": "keys",
    "bedrock-key": "bedrock-keys",
    "budget": "budgets",
    "model": "models",
    "circuit": "circuits",
    "token": "tokens",
}


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _Root(TyperGroup):
    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, _SINGULAR.get(cmd_name, cmd_name))


app = typer.Typer(
    name="proxyctl",
    cls=_Root,
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


def _root(**values: Any) -> None:
    values.pop("version")
    command.set_root_options(Options(**values))


_VERSION = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version.")
_root.__signature__ = Signature(  # type: ignore[attr-defined]
    [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, kind in GLOBAL.items()]
    + [Parameter("version", Parameter.KEYWORD_ONLY, default=_VERSION, annotation=bool)]
)
_root.__annotations__ = {**GLOBAL, "version": bool}
app.callback()(_root)

for module in (daemon, demo, init, status, doctor, top, manifest, api, version, topics):
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
    ("claude", claude.group),
    ("compatibility", compatibility.group),
    ("usage", usage.group),
    ("tokens", tokens.group),
    ("audit", audit.group),
    ("config", config.group),
    ("db", db.group),
    ("daemon", daemon.group),
):
    app.add_typer(group, name=name)


@cache
def tree() -> Any:
    """The commands, built once. Typer's two options for completion stay, unlisted: `proxyctl completion` is the way."""
    root = typer.main.get_command(app)
    for parameter in root.params:
        if parameter.name in ("install_completion", "show_completion"):
            parameter.hidden = True  # type: ignore[attr-defined]
    return root


def run() -> None:
    """Run the command line; ends the process with its exit code."""
    arguments = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):  # names are not ASCII, whatever the locale says
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        typed = [_text(argument) for argument in arguments]
        sys.exit(tree()(typed, prog_name="proxyctl", standalone_mode=False) or ExitCode.DONE)
    except CliError as error:
        _fail(arguments, error.type, error.message, error.exit_code, hint=error.hint, request_id=error.request_id)
    except typer.TyperException as error:  # what was typed is no command line
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(error.format_message() + "\n")
            sys.exit(ExitCode.USAGE)
        _fail(arguments, "usage", _sentence(error), ExitCode.USAGE, hint=_help(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:  # the CLI's edge: one line for a person, the rest in a file
        if "--debug" in arguments or os.environ.get("PROXY_DEBUG"):
            raise
        if isinstance(error, OSError) and error.errno in _FULL:
            abandon()
            message = f"the output cannot be written: {error.strerror}"
            _fail(arguments, "failed", message, ExitCode.FAILED, hint=None)
        from proxyctl.crash import report

        place = report(error, arguments)
        hint = f"please report it with {place}" if place else "run it again with --debug"
        _fail(arguments, "bug", f"unexpected {type(error).__name__}: {error}", ExitCode.FAILED, hint=hint)


def _text(argument: str) -> str:
    """What was typed, as UTF-8, whatever the locale is."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError as error:
        raise UsageError(f"{argument!r} is not UTF-8") from error


def _fail(
    arguments: list[str], kind: str, message: str, code: ExitCode, *, hint: str | None, request_id: str | None = None
) -> None:
    document = {"type": kind, "message": message, "hint": hint, "request_id": request_id, "exit_code": int(code)}
    write_error(document, as_json=is_json(arguments))
    sys.exit(code)


def _sentence(error: typer.TyperException) -> str:
    text = error.format_message().rstrip(".").replace("Value error, ", "").replace(": Input ", ": input ")
    return text[:1].lower() + text[1:]


def _help(error: typer.TyperException) -> str | None:
    context = getattr(error, "ctx", None)
    return None if context is None else f"{context.command_path} --help"
