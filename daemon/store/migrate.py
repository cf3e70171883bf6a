"""Schema migrations, run by Alembic and configured in code: no ini file, the same in a checkout and a wheel.

All functions are synchronous and may take seconds: call them in a thread or before the loop runs.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from daemon.resources import migrations_path
from daemon.store.engine import sqlite_begin
from daemon.store.tables import metadata

T = TypeVar("T")

ADVISORY_LOCK = 7_221_942_044  # any number, the same for all migrators
_PARTITIONS = ("usage_aggregates_hour", "usage_aggregates_day")  # parts of a table, no tables of their own
_WAIT_FOR_MIGRATOR_MS = 60_000  # SQLite's write lock is the lock of its migrators


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the schema to `revision`. A second migrator waits for the first one."""
    command.upgrade(_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    command.downgrade(_config(url), revision)


def sql(url: str, revision: str = "head") -> None:
    """Print the statements of an upgrade from nothing instead of running them."""
    command.upgrade(_config(url), revision, sql=True)


def current(url: str) -> str | None:
    """The revision of the database, None when it has no schema yet. Looking makes no file."""
    at = make_url(url)
    if at.get_backend_name() == "sqlite" and not Path(at.database or "").exists():
        return None
    return run_with_connection(url, lambda connection: MigrationContext.configure(connection).get_current_revision())


def head() -> str:
    """The revision this version of the code needs."""
    revision = ScriptDirectory(str(migrations_path())).get_current_head()
    assert revision is not None
    return revision


def history() -> list[dict[str, str]]:
    """Every revision and what it is about, the newest first."""
    scripts = ScriptDirectory(str(migrations_path())).walk_revisions()
    return [{"revision": script.revision, "description": (script.doc or "").splitlines()[0]} for script in scripts]


def pending(url: str) -> bool:
    return current(url) != head()


def drift(url: str) -> list[str]:
    """Differences between the database and the tables in code; empty when they agree."""

    def differences(connection: Connection) -> list[str]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": _is_ours})
        return [str(difference) for difference in compare_metadata(context, metadata)]

    return run_with_connection(url, differences)


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "table" or name not in _PARTITIONS


def run_with_connection(url: str, use: Callable[[Connection], T]) -> T:
    """Call `use` with a connection, in a loop of its own: the asynchronous drivers are the ones that are installed."""

    async def run() -> T:
        engine = create_async_engine(url, poolclass=NullPool)
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _sqlite_transactions)
            event.listen(engine.sync_engine, "begin", sqlite_begin)
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(use)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def _sqlite_transactions(connection: Any, _record: object) -> None:
    """Let DDL be part of a transaction. Foreign keys stay off: rebuilding a table drops it first."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_WAIT_FOR_MIGRATOR_MS}")
    cursor.close()


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.attributes["url"] = url
    return config
