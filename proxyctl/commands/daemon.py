"""`proxyctl serve` and `proxyctl daemon`: run the daemon here, check its settings."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.errors import UnreachableError, UsageError
from proxyctl.output import column

if TYPE_CHECKING:
    from daemon.settings import Settings, SettingsProblem

group = new_group("Run the daemon here, check its settings.")

COLUMNS = [column("setting"), column("value"), column("source")]

Host = Annotated[str, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
EnvFile = Annotated[Path | None, typer.Option("--env-file", help="Read variables from a file; the environment wins.")]


def _run(cli: Cli, host: Host = "127.0.0.1", port: Port = 8000, env_file: EnvFile = None) -> None:
    """Start the daemon on this machine. Without any setting: SQLite, secrets made once.

    Example: PROXY_PLAN_API_KEY=sk-ant-… proxyctl serve
    """
    from daemon.serve import run

    settings = load(env_file)
    raise typer.Exit(run(settings, host=host, port=port, say=_say, reread=lambda: _reread(env_file)))


register(group, "run", can_rehearse=False)(_run)


@register(group, "check")
def check(cli: Cli, env_file: EnvFile = None) -> None:
    """Load settings and look at the database; start nothing. Exit 2 when the settings are wrong.

    Example: proxyctl daemon check --env-file .env
    """
    from daemon.core.price_sheets import PriceSheetError
    from daemon.price_sources import packaged_sheet, price_layers
    from daemon.secrets_store import data_directory, database_url
    from daemon.services.pricing import with_layers
    from daemon.settings import missing_for_postgres, variable_of
    from daemon.store import migrate

    settings = load(env_file)
    url = database_url(settings)
    problems = missing_for_postgres(settings) if url.startswith("postgresql") else []
    lines = [str(problem) for problem in problems]
    try:
        with_layers(packaged_sheet(), price_layers(lambda: settings))
    except PriceSheetError as error:
        lines.append(str(error))
    if lines:
        raise UsageError(_all(lines))
    rows = [
        {
            "setting": variable_of(name),
            "value": None if getattr(settings, name) in (None, "") else str(getattr(settings, name)),
            "source": "set" if name in settings.model_fields_set else "default",
        }
        for name in type(settings).model_fields
    ]
    rows.sort(key=lambda row: str(row["setting"]))
    cli.printer.rows({"items": rows, "next_cursor": None}, COLUMNS, name="setting")
    cli.tell(f"data directory {data_directory(settings)}")
    with database_errors():
        revision = migrate.current(url)
    if revision is None and url.startswith("sqlite"):
        cli.tell("ok: the schema is made on the first start")
        return
    if revision != migrate.head():
        told = "there is no schema" if revision is None else f"the schema is at {revision}"
        raise UsageError(f"{told}, this version needs {migrate.head()}", hint="proxyctl db upgrade")
    cli.tell(f"ok: the schema is at {revision}")


@register(group, "hash-password")
def hash_password_command(cli: Cli) -> None:
    """Print the argon2id hash of a password. It is read from standard input, for PROXY_ADMIN_PASSWORD_HASH."""
    from daemon.security.passwords import hash_password

    if cli.interactive:
        import getpass

        password = getpass.getpass("New password: ")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if len(password) < 8:
        raise UsageError("expected a password of at least 8 characters on standard input")
    typer.echo(hash_password(password))


@register(group, "openapi")
def openapi(cli: Cli) -> None:
    """Print the admin API's OpenAPI document.

    Example: proxyctl daemon openapi --query "keys(paths)"
    """
    from daemon.admin.app import openapi_document
    from proxyctl.output import Printer

    form = cli.printer.form if cli.printer.form in ("json", "yaml") else "json"
    Printer(form, cli.options.query).item(openapi_document(), [])


def register_commands(app: typer.Typer) -> None:
    register(app, "serve", can_rehearse=False)(_run)


@contextmanager
def database_errors() -> Iterator[None]:
    """What goes wrong between here and the database, as sentences."""
    from alembic.util import CommandError

    from daemon.store.engine import OUTAGES

    try:
        yield
    except BrokenPipeError:  # not the database's
        raise
    except OUTAGES as error:
        told = next(iter(str(getattr(error, "orig", None) or error).splitlines()), type(error).__name__)
        raise UnreachableError(
            f"the database cannot be used: {told}", hint="is it running, and is PROXY_DATABASE_URL right?"
        ) from error
    except CommandError as error:
        raise UsageError(str(error)) from error


def load(env_file: Path | None) -> "Settings":
    """The daemon's settings; all problems at once, exit 2."""
    from daemon.settings import Settings, load_settings

    environment = (_read(env_file) if env_file else {}) | dict(os.environ)
    settings = load_settings(environment)
    if not isinstance(settings, Settings):
        raise UsageError(_all([str(problem) for problem in settings]), hint="proxyctl help environment")
    return settings


def _all(problems: list[str]) -> str:
    """Problems as one message."""
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{len(problems)} settings are wrong:", *problems])


def _reread(env_file: Path | None) -> "Settings | list[SettingsProblem]":
    """The settings as they are now: the process's own environment cannot change, the file can."""
    from daemon.settings import SettingsProblem, load_settings

    try:
        return load_settings((_read(env_file) if env_file else {}) | dict(os.environ))
    except UsageError as error:
        return [SettingsProblem("--env-file", error.message)]


def _read(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, found, value = line.removeprefix("export ").partition("=")
        if not found or not name.strip().replace("_", "").isalnum():
            raise UsageError(f"{path}:{number}: expected NAME=value")
        if name.strip() in values:
            raise UsageError(f"{path}:{number}: {name.strip()} is given twice")
        values[name.strip()] = value.strip().strip("'\"")
    return values


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
