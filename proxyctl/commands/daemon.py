"""`proxyctl serve` and `proxyctl daemon`: run the daemon here, check its settings."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.errors import UsageError

if TYPE_CHECKING:
    from daemon.settings import Settings, SettingsProblem

group = new_group("Run the daemon here, check its settings.")

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
    """Load settings and look at the database; start nothing. Exit 2 when the settings are wrong."""
    from daemon.core.price_sheets import PriceSheetError
    from daemon.price_sources import packaged_sheet, price_layers
    from daemon.secrets_store import data_directory, database_url
    from daemon.services.pricing import with_layers
    from daemon.settings import missing_for_postgres, variable_of
    from daemon.store import migrate

    settings = load(env_file)
    url = database_url(settings)
    problems = missing_for_postgres(settings) if url.startswith("postgresql") else []
    for name in sorted(type(settings).model_fields):
        source = "" if name in settings.model_fields_set else "  (default)"
        cli.tell(f"{variable_of(name):<30} {getattr(settings, name)}{source}")
    cli.tell(f"data directory                 {data_directory(settings)}")
    lines = [str(problem) for problem in problems]
    try:
        with_layers(packaged_sheet(), price_layers(lambda: settings))
    except PriceSheetError as error:
        lines.append(str(error))
    for line in lines:
        sys.stderr.write(f"error: {line}\n")
    if lines:
        raise typer.Exit(2)
    fresh = url.startswith("sqlite") and not (data_directory(settings) / "proxyctl.db").exists()
    cli.tell(
        "schema                         created on the first start"
        if fresh
        else f"schema                         {migrate.current(url)}"
    )
    if not fresh and migrate.pending(url):
        raise UsageError("the database's schema is not the one this version needs", hint="proxyctl db upgrade")
    cli.tell("ok")


@register(group, "hash-password")
def hash_password_command(cli: Cli) -> None:
    """Read a password from standard input, print its argon2id hash for PROXY_ADMIN_PASSWORD_HASH."""
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
    """Print the admin API's OpenAPI document."""
    from daemon.admin.app import openapi_document

    typer.echo(json.dumps(openapi_document(), indent=2))


def register_commands(app: typer.Typer) -> None:
    register(app, "serve", can_rehearse=False)(_run)


def load(env_file: Path | None) -> "Settings":
    """The daemon's settings; all problems at once, exit 2."""
    from daemon.settings import Settings, load_settings

    environment = (_read(env_file) if env_file else {}) | dict(os.environ)
    settings = load_settings(environment)
    if not isinstance(settings, Settings):
        for problem in settings:
            sys.stderr.write(f"error: {problem}\n")
        raise typer.Exit(2)
    return settings


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
