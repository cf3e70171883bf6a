"""What was learned about providers, for the operator: shown, and forgotten when it is no longer true."""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.common import Page
from daemon.contract.compatibility import Forgotten, Learned, LearnedFilter
from daemon.services import audit, cursors
from daemon.services.audit import Actor
from daemon.services.errors import NotFound
from daemon.store.engine import Store
from daemon.store.epochs import bump
from daemon.store.tables import compatibility

_SHOWN = ("provider", "region", "model", "kind", "value")


class Compatibility:
    """Use cases of what was learned. `on_change` runs after every commit that forgets something."""

    def __init__(self, store: Store, *, now: Callable[[], datetime], on_change: Callable[[], None]) -> None:
        self._store = store
        self._now = now
        self._on_change = on_change

    async def list_learned(self, only: LearnedFilter, *, limit: int, cursor: str | None) -> Page[Learned]:
        """What is believed now, in the order it was learned."""
        query = select(compatibility).where(*self._matching(only)).order_by(compatibility.c.id).limit(limit + 1)
        after = cursors.decode_id(cursor)
        if after is not None:
            query = query.where(compatibility.c.id > after)
        async with self._store.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        more = cursors.encode(rows[limit - 1]["id"]) if len(rows) > limit else None
        return Page(items=[Learned.model_validate(dict(row)) for row in rows[:limit]], next_cursor=more)

    async def forget(self, learned_id: UUID, actor: Actor) -> None:
        """Forget one thing: the next request tries it again.

        Raises:
            NotFound: it is not believed, or not any more.
        """
        async with self._store.write() as connection:
            statement = delete(compatibility).where(compatibility.c.id == learned_id, *self._matching(LearnedFilter()))
            row = (await connection.execute(statement.returning(compatibility))).mappings().one_or_none()
            if row is None:
                raise NotFound("nothing with this id was learned")
            await self._announce(connection, actor, learned_id, {name: row[name] for name in _SHOWN})
        self._on_change()

    async def forget_all(self, only: LearnedFilter, actor: Actor) -> Forgotten:
        """Forget all that matches."""
        async with self._store.write() as connection:
            forgotten = (await connection.execute(delete(compatibility).where(*self._matching(only)))).rowcount
            if forgotten:
                before = only.model_dump(exclude_none=True) | {"forgotten": forgotten}
                await self._announce(connection, actor, "*", before)
        if forgotten:
            self._on_change()
        return Forgotten(forgotten=forgotten)

    def _matching(self, only: LearnedFilter) -> list[ColumnElement[bool]]:
        found = [compatibility.c.expires_at > self._now()]
        if only.provider is not None:
            found.append(compatibility.c.provider == only.provider)
        if only.model is not None:
            found.append(compatibility.c.model == only.model)
        return found

    async def _announce(
        self, connection: AsyncConnection, actor: Actor, object_id: object, before: dict[str, Any]
    ) -> None:
        now, subject = self._now(), ("compatibility", object_id)
        await audit.record(connection, actor, "compatibility.forget", at=now, subject=subject, before=before)
        await bump(connection, "routing", now)
