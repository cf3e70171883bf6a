"""Service tokens: created, revoked and recognised. One that is revoked is refused from the next request on."""

from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from daemon.contract.common import Page
from daemon.contract.tokens import ServiceToken, ServiceTokenCreate, ServiceTokenSecret
from daemon.core.identity import looks_like_service_token, mask
from daemon.core.scopes import SCOPES, missing
from daemon.security.access_keys import hash_key, new_service_token
from daemon.services import audit, cursors
from daemon.services.audit import Actor
from daemon.services.errors import Conflict, Forbidden, Invalid, NotFound
from daemon.services.identity import Identity
from daemon.services.ids import uuid7
from daemon.store.engine import OUTAGES, Store
from daemon.store.filters import live
from daemon.store.tables import service_tokens

_USE_NOTED_EVERY = timedelta(minutes=5)


class ServiceTokens:
    """Use cases of service tokens. The token itself leaves in the answer of `create_token`, nowhere else.

    Nothing is cached: every request looks its token up, so that a revocation holds on all replicas at once.
    """

    def __init__(
        self,
        store: Store,
        *,
        hasher_secret: bytes,
        now: Callable[[], datetime],
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._hasher_secret = hasher_secret
        self._now = now
        self._token_bytes = token_bytes

    async def create_token(
        self, wanted: ServiceTokenCreate, actor: Actor, *, held: Collection[str]
    ) -> ServiceTokenSecret:
        """A new token with at most the scopes `held` by who asks.

        Raises:
            Invalid (unknown scope, expiry in the past), Forbidden (a scope too many), Conflict (the name is taken).
        """
        now = self._now()
        unknown = [scope for scope in wanted.scopes if scope not in SCOPES]
        if unknown:
            raise Invalid(
                f"unknown: {', '.join(sorted(set(unknown)))}; known: {', '.join(sorted(SCOPES))}", field="scopes"
            )
        if wanted.expires_at is not None and wanted.expires_at <= now:
            raise Invalid("must be in the future", field="expires_at")
        beyond = missing(held, wanted.scopes)
        if beyond:
            raise Forbidden(f"a token cannot give away what it does not have: {', '.join(beyond)}", field="scopes")
        raw = new_service_token(self._token_bytes)
        scopes = sorted(set(wanted.scopes))
        values = {"id": uuid7(now, self._token_bytes), "name": wanted.name, "scopes": scopes}
        values |= {"token_hash": hash_key(raw, self._hasher_secret), "token_prefix": mask(raw)}
        values |= {"expires_at": wanted.expires_at, "last_used_at": None, "deleted_at": None}
        values |= {"created_at": now, "updated_at": now}
        ends = wanted.expires_at.isoformat() if wanted.expires_at else None
        after = {"name": wanted.name, "scopes": scopes, "expires_at": ends, "token_prefix": mask(raw)}
        try:
            async with self._store.write() as connection:
                await connection.execute(insert(service_tokens).values(values))
                subject = ("service_token", values["id"])
                await audit.record(connection, actor, "service_token.create", at=now, subject=subject, after=after)
        except IntegrityError:
            raise Conflict(f"there is a service token named {wanted.name!r} already", field="name") from None
        view = self._view(values).model_dump()
        return ServiceTokenSecret.model_validate(view | {"token": raw, "result": "created"})

    async def list_tokens(self, *, limit: int, cursor: str | None, name: str | None = None) -> Page[ServiceToken]:
        """Tokens that are not revoked, in the order they were created."""
        query = select(service_tokens).where(live(service_tokens)).order_by(service_tokens.c.id).limit(limit + 1)
        after = cursors.decode_id(cursor)
        if after is not None:
            query = query.where(service_tokens.c.id > after)
        if name is not None:
            query = query.where(service_tokens.c.name == name)
        async with self._store.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        more = cursors.encode(rows[limit - 1]["id"]) if len(rows) > limit else None
        return Page(items=[self._view(row) for row in rows[:limit]], next_cursor=more)

    async def revoke_token(self, token_id: UUID, actor: Actor) -> ServiceToken:
        """The token, which works no longer, nor do browsers that signed in with it. Again, it changes nothing."""
        now = self._now()
        async with self._store.write() as connection:
            query = select(service_tokens).where(service_tokens.c.id == token_id).with_for_update()
            row = (await connection.execute(query)).mappings().one_or_none()
            if row is None:
                raise NotFound("no such service token")
            if row["deleted_at"] is not None:
                return self._view(row)
            values = {"deleted_at": now, "updated_at": now}
            await connection.execute(update(service_tokens).where(service_tokens.c.id == token_id).values(values))
            before = {"name": row["name"], "scopes": row["scopes"], "token_prefix": row["token_prefix"]}
            subject = ("service_token", token_id)
            await audit.record(connection, actor, "service_token.revoke", at=now, subject=subject, before=before)
        return self._view(dict(row) | values)

    async def identify(self, raw: str) -> Identity | None:
        """Whose token this is; None when it is nobody's. A made-up one is refused without asking the store."""
        if not looks_like_service_token(raw):
            return None
        return await self._find(service_tokens.c.token_hash == hash_key(raw, self._hasher_secret))

    async def identify_id(self, token_id: UUID) -> Identity | None:
        """The token that a browser signed in with; None when it is no longer good."""
        return await self._find(service_tokens.c.id == token_id)

    async def _find(self, which: ColumnElement[bool]) -> Identity | None:
        now = self._now()
        good = or_(service_tokens.c.expires_at.is_(None), service_tokens.c.expires_at > now)
        async with self._store.read() as connection:
            query = select(service_tokens).where(which, live(service_tokens), good)
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            return None
        used = row["last_used_at"]
        if used is None or now - used >= _USE_NOTED_EVERY:
            await self._note_use(row["id"], now)
        return Identity(f"token:{row['name']}", "service", frozenset(row["scopes"]), row["expires_at"], row["id"])

    async def _note_use(self, token_id: UUID, now: datetime) -> None:
        """Seldom, and never in the way of what the token was sent for."""
        long_ago = or_(service_tokens.c.last_used_at.is_(None), service_tokens.c.last_used_at <= now - _USE_NOTED_EVERY)
        statement = update(service_tokens).where(service_tokens.c.id == token_id, long_ago).values(last_used_at=now)
        with suppress(*OUTAGES):
            async with self._store.write() as connection:
                await connection.execute(statement)

    def _view(self, row: Any) -> ServiceToken:
        status = "active"
        if row["deleted_at"] is not None:
            status = "revoked"
        elif row["expires_at"] is not None and row["expires_at"] <= self._now():
            status = "expired"
        return ServiceToken.model_validate(dict(row) | {"status": status})
