"""Counters that tell replicas when to forget what they cached."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.store.tables import settings_epoch


async def bump(connection: AsyncConnection, name: str, now: datetime) -> None:
    """Count `name` up by one, in the transaction of the change it announces."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(settings_epoch).values(name=name, epoch=1, updated_at=now)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_={"epoch": settings_epoch.c.epoch + 1, "updated_at": now}
        )
    )


async def note(connection: AsyncConnection, name: str, detail: str, now: datetime) -> str | None:
    """Remember a fact under a name of its own; returns what was remembered before."""
    before = await connection.scalar(select(settings_epoch.c.detail).where(settings_epoch.c.name == name))
    if before != detail:
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        statement = insert(settings_epoch).values(name=name, epoch=0, detail=detail, updated_at=now)
        await connection.execute(
            statement.on_conflict_do_update(index_elements=["name"], set_={"detail": detail, "updated_at": now})
        )
    return before


async def read_all(connection: AsyncConnection) -> dict[str, int]:
    """All counters by name."""
    rows = await connection.execute(select(settings_epoch.c.name, settings_epoch.c.epoch))
    return {name: int(epoch) for name, epoch in rows}
