"""`proxyctl db`: the schema."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from proxyctl.command import new_group, register
from proxyctl.commands.daemon import EnvFile, database_errors, load
from proxyctl.context import Cli
from proxyctl.errors import ExitCode, UsageError
from proxyctl.output import column

group = new_group("The database schema. Reads PROXY_DATABASE_URL, like the daemon.")

COLUMNS = [column("revision"), column("description")]


@register(group, "upgrade", can_rehearse=False)
def upgrade(
    cli: Cli,
    revision: Annotated[str, typer.Argument(help="Where to go.")] = "head",
    sql: Annotated[bool, typer.Option("--sql", help="Print the statements instead of running them.")] = False,
    env_file: EnvFile = None,
) -> None:
    """Bring the schema up to this version."""
    from daemon.secrets_store import data_directory
    from daemon.store import migrate

    url = _url(env_file)
    if url.startswith("sqlite") and not sql:
        data_directory(load(env_file)).mkdir(mode=0o700, parents=True, exist_ok=True)
    with database_errors():
        if sql:
            migrate.sql(url, revision)
            return
        migrate.upgrade(url, revision)
        cli.tell(f"The schema is at {migrate.current(url)}.")


@register(group, "current")
def current(cli: Cli, env_file: EnvFile = None) -> None:
    """The schema's revision."""
    from daemon.store import migrate

    with database_errors():
        typer.echo(migrate.current(_url(env_file)) or "empty")


@register(group, "history")
def history(cli: Cli) -> None:
    """The schema's revisions, the newest first."""
    from daemon.store import migrate

    cli.printer.rows({"items": migrate.history(), "next_cursor": None}, COLUMNS, name="revision")


@register(group, "check")
def check(cli: Cli, env_file: EnvFile = None) -> None:
    """Whether an upgrade is pending: exit 8 if so."""
    from daemon.store import migrate

    with database_errors():
        revision = migrate.current(_url(env_file))
    if revision != migrate.head():
        told = "there is no schema" if revision is None else f"the schema is at {revision}"
        cli.tell(f"pending: {told}, this version needs {migrate.head()}")
        raise typer.Exit(ExitCode.DIFFERENT)
    cli.tell("up to date")


@register(group, "downgrade", can_rehearse=False)
def downgrade(
    cli: Cli, revision: Annotated[str, typer.Argument(help="Where to go; base is nothing.")], env_file: EnvFile = None
) -> None:
    """Go back. Data of what is removed is lost; needs --yes."""
    from daemon.store import migrate

    if not cli.options.yes:
        raise UsageError("a downgrade loses data: --yes is required")
    url = _url(env_file)
    with database_errors():
        migrate.downgrade(url, revision)
        cli.tell(f"The schema is at {migrate.current(url) or 'nothing: there is none'}.")


@register(group, "rebuild-usage", can_rehearse=False)
def rebuild_usage(cli: Cli, env_file: EnvFile = None) -> None:
    """Make the hourly and daily usage anew from the ledger. Daemons may run meanwhile.

    What is older than the oldest row of the ledger stays as it is. Use it when figures were changed by hand, or
    restored apart from each other.
    """
    from daemon.secrets_store import database_url
    from daemon.store.rollups import rebuild

    settings = load(env_file)
    with database_errors():
        hours, days = rebuild(database_url(settings), settings.zone, progress=_progress(cli))
    cli.tell(f"Made anew: {hours} hours, {days} days.")


def _progress(cli: Cli) -> Callable[[str], None]:
    """Tells a terminal how far it is, in one line that is written over."""

    def show(text: str) -> None:
        if sys.stderr.isatty() and not cli.quiet:
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()

    return show


def _url(env_file: Path | None) -> str:
    from daemon.secrets_store import database_url

    return database_url(load(env_file))
