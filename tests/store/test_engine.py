"""What counts as an outage of the store, and what blames the statement."""

import asyncio

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from daemon.store.engine import OUTAGES, Store
from daemon.store.tables import settings_epoch
from tests.factories import NOON

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@on_postgresql
async def test_a_standby_that_refuses_writes_is_an_outage(store: Store) -> None:
    with pytest.raises(OUTAGES, match="read-only"):
        async with store.write() as connection:
            await connection.execute(text("SET TRANSACTION READ ONLY"))
            await connection.execute(insert(settings_epoch).values(name="access", updated_at=NOON))


@on_postgresql
async def test_a_statement_that_takes_too_long_is_an_outage(store: Store) -> None:
    with pytest.raises(OUTAGES, match="statement timeout"):
        async with store.read() as connection:
            await connection.execute(text("SET LOCAL statement_timeout = '20ms'"))
            await connection.execute(text("SELECT pg_sleep(5)"))


@on_postgresql
async def test_a_lock_that_does_not_come_is_an_outage(store: Store) -> None:
    async with store.write() as holder:
        await holder.execute(text("LOCK TABLE settings_epoch"))
        with pytest.raises(OUTAGES, match="lock timeout"):
            async with store.write() as waiter:
                await waiter.execute(text("SET LOCAL lock_timeout = '20ms'"))
                await waiter.execute(insert(settings_epoch).values(name="access", updated_at=NOON))


@on_postgresql
async def test_a_connection_that_the_server_ends_is_an_outage_and_the_next_one_works(store: Store) -> None:
    with pytest.raises(OUTAGES):
        async with store.read() as ended:
            process = await ended.scalar(text("SELECT pg_backend_pid()"))
            async with store.read() as other:
                await other.execute(text("SELECT pg_terminate_backend(:process)"), {"process": process})
            await ended.execute(text("SELECT 1"))
    await store.ping()


async def test_a_database_that_is_not_there_is_an_outage(postgres_server: str) -> None:
    store = Store.open(f"{postgres_server}/no_such_database")
    with pytest.raises(OUTAGES, match="no_such_database"):
        await store.ping()
    await store.aclose()


async def test_a_server_that_is_not_there_is_an_outage() -> None:
    store = Store.open("postgresql+asyncpg://postgres@127.0.0.1:1/nowhere")
    with pytest.raises(OUTAGES):
        await store.ping()
    await store.aclose()


async def test_a_row_that_is_taken_blames_the_statement(store: Store) -> None:
    taken = insert(settings_epoch).values(name="access", updated_at=NOON)
    async with store.write() as connection:
        await connection.execute(taken)
    with pytest.raises(IntegrityError):
        async with store.write() as connection:
            await connection.execute(taken)


@on_postgresql
async def test_wrong_sql_and_wrong_values_blame_the_statement(store: Store) -> None:
    for statement in ("SELECT nothing", "SELECT 1 / 0"):
        with pytest.raises(DBAPIError) as caught:
            async with store.read() as connection:
                await connection.execute(text(statement))
        assert not isinstance(caught.value, OUTAGES)


async def test_writers_of_one_process_take_turns(store: Store) -> None:
    async with store.write() as connection:
        await connection.execute(insert(settings_epoch).values(name="access", epoch=0, updated_at=NOON))

    async def count() -> None:
        async with store.write() as connection:
            await connection.execute(settings_epoch.update().values(epoch=settings_epoch.c.epoch + 1))

    await asyncio.gather(*(count() for _ in range(20)))
    async with store.read() as connection:
        assert await connection.scalar(select(func.sum(settings_epoch.c.epoch))) == 20


@on_sqlite
async def test_sqlite_enforces_foreign_keys_and_keeps_a_write_ahead_log(store: Store) -> None:
    async with store.read() as connection:
        assert await connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert await connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert await connection.scalar(text("PRAGMA busy_timeout")) == 5000
