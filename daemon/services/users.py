"""Users: created, changed and deleted, each in one transaction with its audit row."""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.common import Page
from daemon.contract.users import User, UserCreate, UserCreated, UserUpdate
from daemon.core.budget import nano_of
from daemon.services import audit, cursors
from daemon.services.audit import Actor
from daemon.services.bedrock_keys import erase_keys
from daemon.services.errors import Conflict, Invalid, NotFound, check_version
from daemon.services.ids import uuid7
from daemon.store.engine import Store
from daemon.store.epochs import bump
from daemon.store.filters import live
from daemon.store.tables import access_keys, bedrock_keys, users

_NOT_NULL = ("name", "routing_strategy", "is_active")


class Users:
    """Use cases of users. `on_access_change` runs after every commit that may change who is admitted."""

    def __init__(
        self,
        store: Store,
        *,
        now: Callable[[], datetime],
        token_bytes: Callable[[int], bytes],
        on_access_change: Callable[[], None],
        default_budget_nano: int | None = None,
    ) -> None:
        self._default_budget_nano = default_budget_nano
        self._store = store
        self._now = now
        self._token_bytes = token_bytes
        self._on_access_change = on_access_change

    async def create_user(self, wanted: UserCreate, actor: Actor) -> UserCreated:
        """A new user.

        Raises:
            Conflict: a live user has that name.
        """
        now = self._now()
        values = wanted.model_dump(exclude={"budget_usd"}) | {"id": uuid7(now, self._token_bytes), "version": 1}
        is_budget_given = "budget_usd" in wanted.model_fields_set
        budget = nano_of(wanted.budget_usd) if is_budget_given else self._default_budget_nano
        values |= {"created_at": now, "updated_at": now, "budget_nano_usd": budget}
        try:
            async with self._store.write() as connection:
                await connection.execute(insert(users).values(values))
                await self._announce(connection, actor, "user.create", values["id"], after=wanted.model_dump())
        except IntegrityError:
            raise _taken(wanted.name) from None
        self._on_access_change()
        return UserCreated.model_validate(values | {"result": "created"})

    async def get_user(self, user_id: UUID) -> User:
        """A live user, or NotFound."""
        async with self._store.read() as connection:
            return _user(await live_user(connection, user_id))

    async def list_users(
        self,
        *,
        limit: int,
        cursor: str | None,
        name: str | None = None,
        search: str | None = None,
        strategy: str | None = None,
    ) -> Page[User]:
        """Live users in the order they were created. `search` is a part of the name, whatever its case."""
        query = select(users).where(live(users)).order_by(users.c.id).limit(limit + 1)
        after = cursors.decode_id(cursor)
        if after is not None:
            query = query.where(users.c.id > after)
        if name is not None:
            query = query.where(users.c.name == name)
        if search is not None:
            query = query.where(users.c.name.icontains(search, autoescape=True))
        if strategy is not None:
            query = query.where(users.c.routing_strategy == strategy)
        async with self._store.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        more = cursors.encode(rows[limit - 1]["id"]) if len(rows) > limit else None
        return Page(items=[_user(row) for row in rows[:limit]], next_cursor=more)

    async def update_user(self, user_id: UUID, wanted: UserUpdate, actor: Actor, *, version: int | None) -> User:
        """Change the fields that were sent. With `version`, only if the user still has it.

        Raises:
            NotFound, Conflict (stale version, name taken), Invalid (null where a value is needed).
        """
        changes = wanted.model_dump(exclude_unset=True)
        for field in _NOT_NULL:
            if field in changes and changes[field] is None:
                raise Invalid("must not be null", field=field)
        try:
            async with self._store.write() as connection:
                row = await live_user(connection, user_id, lock=True)
                check_version(row, version, "user")
                changed = {field: value for field, value in changes.items() if row[field] != value}
                if not changed:
                    return _user(row)
                values = changed | {"version": row["version"] + 1, "updated_at": self._now()}
                await connection.execute(update(users).where(users.c.id == user_id, live(users)).values(values))
                before = {field: row[field] for field in changed}
                await self._announce(connection, actor, "user.update", user_id, before=before, after=changed)
        except IntegrityError:
            raise _taken(str(changes.get("name"))) from None
        self._on_access_change()
        return _user(dict(row) | values)

    async def delete_user(self, user_id: UUID, actor: Actor, *, version: int | None = None) -> None:
        """Delete a user, revoke its keys and erase their Bedrock keys; usage stays."""
        now = self._now()
        async with self._store.write() as connection:
            row = await live_user(connection, user_id, lock=True)
            check_version(row, version, "user")
            gone = {"deleted_at": now, "updated_at": now}
            await connection.execute(update(users).where(users.c.id == user_id, live(users)).values(gone))
            keys = update(access_keys).where(access_keys.c.user_id == user_id, live(access_keys)).values(gone)
            revoked = (await connection.execute(keys)).rowcount
            owned = select(access_keys.c.id).where(access_keys.c.user_id == user_id)
            await erase_keys(connection, bedrock_keys.c.access_key_id.in_(owned), now)
            before = {"name": row["name"], "access_keys": revoked}
            await self._announce(connection, actor, "user.delete", user_id, before=before)
        self._on_access_change()

    async def _announce(
        self,
        connection: AsyncConnection,
        actor: Actor,
        action: str,
        user_id: UUID,
        *,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> None:
        now = self._now()
        await audit.record(connection, actor, action, at=now, subject=("user", user_id), before=before, after=after)
        await bump(connection, "access", now)


async def live_user(connection: AsyncConnection, user_id: UUID, *, lock: bool = False) -> RowMapping:
    """The row of a live user; with `lock`, nobody else changes it until the transaction ends.

    Raises:
        NotFound: there is none.
    """
    query = select(users).where(users.c.id == user_id, live(users))
    row = (await connection.execute(query.with_for_update() if lock else query)).mappings().one_or_none()
    if row is None:
        raise NotFound("no such user")
    return row


def _user(row: Any) -> User:
    return User.model_validate(dict(row))


def _taken(name: str) -> Conflict:
    return Conflict(f"a user named {name!r} exists already", field="name")
