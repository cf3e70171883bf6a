"""Access keys: issued, rotated and revoked, each in one transaction with its audit row."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.access_keys import AccessKey, AccessKeyCreate, AccessKeySecret, AccessKeyUpdate
from daemon.contract.common import Page
from daemon.core.identity import mask
from daemon.security.access_keys import hash_key, new_access_key
from daemon.services import audit, cursors
from daemon.services.audit import Actor
from daemon.services.bedrock_keys import erase_keys
from daemon.services.errors import Conflict, Invalid, NotFound, check_version
from daemon.services.ids import uuid7
from daemon.services.users import live_user
from daemon.store.engine import Store
from daemon.store.epochs import bump
from daemon.store.filters import live
from daemon.store.tables import access_keys, bedrock_keys, users


class AccessKeys:
    """Use cases of access keys. The key itself leaves in the answer of `create_key` and `rotate_key`, nowhere else."""

    def __init__(
        self,
        store: Store,
        *,
        hasher_secret: bytes,
        now: Callable[[], datetime],
        token_bytes: Callable[[int], bytes],
        on_access_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._hasher_secret = hasher_secret
        self._now = now
        self._token_bytes = token_bytes
        self._on_access_change = on_access_change

    async def create_key(self, user_id: UUID, wanted: AccessKeyCreate, actor: Actor) -> AccessKeySecret:
        """A new key of a live user.

        Raises:
            NotFound, Conflict (the user has a live key of that name), Invalid (expiry in the past).
        """
        now = self._now()
        if wanted.expires_at is not None and wanted.expires_at <= now:
            raise Invalid("must be in the future", field="expires_at")
        raw, secret = self._new_secret()
        values = wanted.model_dump() | secret | {"id": uuid7(now, self._token_bytes), "user_id": user_id}
        values |= {"version": 1, "created_at": now, "updated_at": now}
        after = {"name": wanted.name, "user_id": str(user_id), "key_prefix": secret["key_prefix"]}
        try:
            async with self._store.write() as connection:
                await live_user(connection, user_id, lock=True)
                await connection.execute(insert(access_keys).values(values))
                await self._announce(connection, actor, "access_key.create", values["id"], after=after)
                row = await _one(connection, values["id"])
        except IntegrityError:
            raise Conflict(f"the user has an access key named {wanted.name!r} already", field="name") from None
        self._on_access_change()
        return self._with_secret(row, raw, "created")

    async def get_key(self, key_id: UUID) -> AccessKey:
        """A live key, or NotFound."""
        async with self._store.read() as connection:
            row = await _one(connection, key_id)
        if row["deleted_at"] is not None:
            raise NotFound("no such access key")
        return self._view(row)

    async def list_keys(
        self,
        *,
        limit: int,
        cursor: str | None,
        user_id: UUID | None = None,
        name: str | None = None,
        search: str | None = None,
    ) -> Page[AccessKey]:
        """Live keys in the order they were created. `search` is a part of the name, or the beginning of the prefix."""
        query = _joined().where(live(access_keys), live(users)).order_by(access_keys.c.id).limit(limit + 1)
        after = cursors.decode_id(cursor)
        if after is not None:
            query = query.where(access_keys.c.id > after)
        if user_id is not None:
            query = query.where(access_keys.c.user_id == user_id)
        if name is not None:
            query = query.where(access_keys.c.name == name)
        if search is not None:
            by_name = access_keys.c.name.icontains(search, autoescape=True)
            query = query.where(or_(by_name, access_keys.c.key_prefix.startswith(search, autoescape=True)))
        async with self._store.read() as connection:
            if user_id is not None:
                await live_user(connection, user_id)
            rows = (await connection.execute(query)).mappings().all()
        more = cursors.encode(rows[limit - 1]["id"]) if len(rows) > limit else None
        return Page(items=[self._view(row) for row in rows[:limit]], next_cursor=more)

    async def update_key(
        self, key_id: UUID, wanted: AccessKeyUpdate, actor: Actor, *, version: int | None
    ) -> AccessKey:
        """Change the fields that were sent. With `version`, only if the key still has it.

        Raises:
            NotFound, Conflict (stale version, name taken, key revoked), Invalid (no name, expiry in the past).
        """
        now = self._now()
        changes = wanted.model_dump(exclude_unset=True)
        if "name" in changes and changes["name"] is None:
            raise Invalid("must not be null", field="name")
        if changes.get("expires_at") is not None and changes["expires_at"] <= now:
            raise Invalid("must be in the future", field="expires_at")
        try:
            async with self._store.write() as connection:
                row = await _one(connection, key_id, lock=True)
                if row["deleted_at"] is not None:
                    raise Conflict("the access key is revoked")
                check_version(row, version, "access key")
                changed = {field: value for field, value in changes.items() if row[field] != value}
                if not changed:
                    return self._view(row)
                values = changed | {"version": row["version"] + 1, "updated_at": now}
                await connection.execute(update(access_keys).where(access_keys.c.id == key_id).values(values))
                before = {field: _plain(row[field]) for field in changed}
                after = {field: _plain(value) for field, value in changed.items()}
                await self._announce(connection, actor, "access_key.update", key_id, before=before, after=after)
        except IntegrityError:
            raise Conflict(f"the user has an access key named {changes['name']!r} already", field="name") from None
        self._on_access_change()
        return self._view(dict(row) | values)

    async def rotate_key(
        self, key_id: UUID, *, grace_seconds: int, actor: Actor, version: int | None = None
    ) -> AccessKeySecret:
        """A new secret for a live key; the old one works for the grace, one before that no longer.

        Raises:
            NotFound, Conflict (the key is revoked; stale version).
        """
        now = self._now()
        raw, secret = self._new_secret()
        async with self._store.write() as connection:
            row = await _one(connection, key_id, lock=True)
            if row["deleted_at"] is not None:
                raise Conflict("the access key is revoked")
            check_version(row, version, "access key")
            keeps = grace_seconds > 0
            values = secret | {
                "previous_key_hash": row["key_hash"] if keeps else None,
                "previous_expires_at": now + timedelta(seconds=grace_seconds) if keeps else None,
                "version": row["version"] + 1,
                "updated_at": now,
            }
            await connection.execute(update(access_keys).where(access_keys.c.id == key_id).values(values))
            before, after = {"key_prefix": row["key_prefix"]}, {"key_prefix": secret["key_prefix"]}
            after["grace_seconds"] = grace_seconds
            await self._announce(connection, actor, "access_key.rotate", key_id, before=before, after=after)
        self._on_access_change()
        return self._with_secret(dict(row) | values, raw, "rotated")

    async def revoke_key(self, key_id: UUID, actor: Actor, *, version: int | None = None) -> AccessKey:
        """The key, which works no longer; its Bedrock key is erased. Revoking it again changes nothing."""
        now = self._now()
        async with self._store.write() as connection:
            row = await _one(connection, key_id, lock=True)
            if row["deleted_at"] is not None:
                return self._view(row)
            check_version(row, version, "access key")
            values = {"deleted_at": now, "updated_at": now, "version": row["version"] + 1}
            await connection.execute(update(access_keys).where(access_keys.c.id == key_id).values(values))
            await erase_keys(connection, bedrock_keys.c.access_key_id == key_id, now)
            before = {"name": row["name"], "key_prefix": row["key_prefix"]}
            await self._announce(connection, actor, "access_key.revoke", key_id, before=before)
        self._on_access_change()
        return self._view(dict(row) | values)

    def _new_secret(self) -> tuple[str, dict[str, Any]]:
        raw = new_access_key(self._token_bytes)
        return raw, {"key_hash": hash_key(raw, self._hasher_secret), "key_prefix": mask(raw)}

    async def _announce(
        self,
        connection: AsyncConnection,
        actor: Actor,
        action: str,
        key_id: UUID,
        *,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> None:
        now = self._now()
        await audit.record(
            connection, actor, action, at=now, subject=("access_key", key_id), before=before, after=after
        )
        await bump(connection, "access", now)

    def _view(self, row: Any) -> AccessKey:
        return AccessKey.model_validate(dict(row) | {"status": self._status(row)})

    def _with_secret(self, row: Any, raw: str, result: str) -> AccessKeySecret:
        shown = {"status": self._status(row), "access_key": raw, "result": result}
        return AccessKeySecret.model_validate(dict(row) | shown)

    def _status(self, row: Any) -> str:
        if row["deleted_at"] is not None:
            return "revoked"
        return "expired" if row["expires_at"] is not None and row["expires_at"] <= self._now() else "active"


def _plain(value: object) -> object:
    """As the audit log keeps it."""
    return value.isoformat() if isinstance(value, datetime) else value


def _joined() -> Select[Any]:
    return select(access_keys, users.c.name.label("user_name")).join(users, users.c.id == access_keys.c.user_id)


async def _one(connection: AsyncConnection, key_id: UUID, *, lock: bool = False) -> Any:
    """The row of a key, revoked or not: revoking twice must find it."""
    query = _joined().where(access_keys.c.id == key_id)
    if lock:
        query = query.with_for_update(of=access_keys)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("no such access key")
    return row
