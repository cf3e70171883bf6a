"""Connections to the store: SQLite in a file, or PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asyncpg.exceptions import InterfaceError as AsyncpgInterfaceError
from asyncpg.exceptions import PostgresConnectionError
from sqlalchemy import event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine


class StoreAway(Exception):
    """PostgreSQL would not serve just now: the same statement can succeed later."""


# What it looks like when the store is away, whoever notices it.
OUTAGES: tuple[type[Exception], ...] = (
    StoreAway,
    OperationalError,
    InterfaceError,
    DisconnectionError,
    PoolTimeoutError,
    AsyncpgInterfaceError,
    PostgresConnectionError,
    OSError,
    TimeoutError,
)
STATEMENT_TIMEOUT_MS = 5_000
_CONNECT_SECONDS = 3.0
# Classes of SQLSTATE that blame the statement or its values. All others (08 connection, 25 read-only standby,
# 40 deadlock, 53 too many connections, 55 lock, 57 timeout and shutdown, …) blame the moment.
_STATEMENT_AT_FAULT = ("0A", "21", "22", "23", "42", "44")


class Store:
    """An engine and its rules. Connections are short: none is held while bytes flow."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.dialect = engine.dialect.name
        self._writing = asyncio.Lock()  # SQLite has one writer; waiting here is cheaper than its busy loop

    @classmethod
    def open(cls, url: str) -> "Store":
        """A store for `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`. Connects on first use."""
        if url.startswith("sqlite"):
            engine = create_async_engine(url)
            event.listen(engine.sync_engine, "connect", _sqlite_pragmas)
            event.listen(engine.sync_engine, "begin", sqlite_begin)
        else:
            engine = create_async_engine(
                url,
                pool_size=5,
                max_overflow=10,
                pool_timeout=_CONNECT_SECONDS,
                pool_pre_ping=True,
                connect_args={
                    "timeout": _CONNECT_SECONDS,
                    "command_timeout": STATEMENT_TIMEOUT_MS / 1000,
                    "server_settings": {"statement_timeout": str(STATEMENT_TIMEOUT_MS)},
                },
            )
            event.listen(engine.sync_engine, "handle_error", _postgres_away)
        return cls(engine)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for queries."""
        async with self._engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end, rolled back on any exception."""
        if self.dialect == "sqlite":
            async with self._writing, self._engine.connect() as connection:
                await connection.execution_options(sqlite_write=True)
                async with connection.begin():
                    yield connection
        else:
            async with self._engine.begin() as connection:
                yield connection

    async def ping(self) -> None:
        """Ask for one row.

        Raises:
            one of `OUTAGES`: the store is away.
        """
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))

    async def aclose(self) -> None:
        await self._engine.dispose()


def _postgres_away(context: ExceptionContext) -> None:
    """SQLAlchemy has no class of its own for most of asyncpg's errors; without a state the connection was lost."""
    error = context.sqlalchemy_exception
    if error is None or isinstance(error, OUTAGES):
        return
    state = getattr(context.original_exception, "sqlstate", None)
    if state is None and not context.is_disconnect:
        return
    if state is None or not state.startswith(_STATEMENT_AT_FAULT):
        raise StoreAway(str(context.original_exception)) from context.original_exception


def _sqlite_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def sqlite_begin(connection: Any) -> None:
    """A writer takes the write lock at once, so that it never fails half-way with `database is locked`."""
    writes = connection.get_execution_options().get("sqlite_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
