"""How Alembic reaches the database: by the URL it was given in code, or by PROXY_DATABASE_URL from a checkout."""

import os

from alembic import context
from sqlalchemy import Connection, text

from daemon.store.migrate import ADVISORY_LOCK, run_with_connection
from daemon.store.tables import metadata

LOCK_TIMEOUT = "4s"


def url() -> str:
    given = context.config.attributes.get("url") or os.environ.get("PROXY_DATABASE_URL")
    if not given:
        raise SystemExit("error: set PROXY_DATABASE_URL, or use: proxyctl db upgrade")
    return str(given)


def migrate(connection: Connection) -> None:
    """One transaction for all steps; a second migrator waits, and on PostgreSQL no step waits long for a table lock."""
    postgres = connection.dialect.name == "postgresql"
    if postgres:
        connection.execute(text(f"SELECT pg_advisory_lock({ADVISORY_LOCK})"))
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.commit()
    else:
        connection.execution_options(sqlite_write=True)
    context.configure(
        connection=connection, target_metadata=metadata, render_as_batch=not postgres, transactional_ddl=True
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


if context.is_offline_mode():
    context.configure(url=url(), target_metadata=metadata, literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        context.run_migrations()
else:
    run_with_connection(url(), migrate)
