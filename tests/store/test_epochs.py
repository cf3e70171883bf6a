"""Counters that replicas compare."""

import asyncio

import pytest

from daemon.store import epochs
from daemon.store.engine import Store
from tests.factories import NOON


async def test_an_epoch_counts_every_change_of_its_name(store: Store) -> None:
    async with store.read() as connection:
        assert await epochs.read_all(connection) == {}

    async def bump(name: str) -> None:
        async with store.write() as connection:
            await epochs.bump(connection, name, NOON)

    await asyncio.gather(*(bump("access") for _ in range(10)), bump("sessions"))
    async with store.read() as connection:
        assert await epochs.read_all(connection) == {"access": 10, "sessions": 1}


async def test_an_epoch_of_a_change_that_failed_does_not_move(store: Store) -> None:
    with pytest.raises(RuntimeError):
        async with store.write() as connection:
            await epochs.bump(connection, "access", NOON)
            raise RuntimeError
    async with store.read() as connection:
        assert await epochs.read_all(connection) == {}
