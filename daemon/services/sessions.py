"""Sessions: of the admin, as a bearer token or a cookie, and of browsers that signed in with a service token."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.identity import TOKEN_PREFIX
from daemon.core.scopes import ADMIN, read_only
from daemon.security.sessions import BEARER, COOKIE, LIFETIME_SECONDS, Audience, issue, verify
from daemon.services import audit
from daemon.services.audit import Actor
from daemon.services.errors import Forbidden, Unauthenticated
from daemon.services.identity import Identity
from daemon.services.service_tokens import ServiceTokens
from daemon.store.engine import Store
from daemon.store.epochs import bump, read_all

_EPOCH = "sessions"
_ADMIN_SCOPES = frozenset({ADMIN})


@dataclass(frozen=True, slots=True)
class Started:
    """A new session: what the client keeps, whose it is, for how many seconds."""

    secret: str
    identity: Identity
    seconds: int

    def __repr__(self) -> str:
        return f"Started({self.identity!r})"


class Sessions:
    """Starts, recognises and ends sessions. Those of the admin end together, and so do those of one service token."""

    def __init__(
        self,
        store: Store,
        service_tokens: ServiceTokens,
        *,
        jwt_secret: bytes,
        username: str,
        password_hash: str,
        now: Callable[[], datetime],
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._service_tokens = service_tokens
        # bound to name and password: a change of either ends all sessions
        self._secret = hmac.new(jwt_secret, f"{username}\0{password_hash}".encode(), hashlib.sha256).digest()
        self._username = username
        self._now = now
        self._token_bytes = token_bytes

    async def start(self, actor: Actor, audience: Audience) -> Started:
        """A session of the admin, whose password has just been checked."""
        now = self._now()
        ends = now.replace(microsecond=0) + timedelta(seconds=LIFETIME_SECONDS)
        return await self._start(Identity(self._username, "admin", _ADMIN_SCOPES, ends), actor, audience, now)

    async def start_viewer(self, raw: str, actor: Actor) -> Started:
        """A session for a browser that shows a service token: it may read what the token may, and change nothing.

        Raises:
            Unauthenticated: the token is not good.
            Forbidden: it may read nothing.
        """
        token = await self._service_tokens.identify(raw)
        if token is None:
            raise Unauthenticated("the service token is unknown, has expired or was revoked")
        if not read_only(token.scopes):
            raise Forbidden("the service token has no scope to read anything")
        now = self._now()
        ends = now.replace(microsecond=0) + timedelta(seconds=LIFETIME_SECONDS)
        return await self._start(_viewer(token, ends), replace(actor, name=token.name), COOKIE, now)

    async def identify_bearer(self, text: str) -> Identity:
        """Who sends a bearer token: the admin's session, or a service token.

        Raises:
            Unauthenticated: it is not ours, has expired, or was ended.
        """
        if not text.startswith(TOKEN_PREFIX):
            return await self._identify(text, BEARER)
        token = await self._service_tokens.identify(text)
        if token is None:
            raise Unauthenticated("the service token is unknown, has expired or was revoked")
        return token

    async def identify_cookie(self, text: str) -> Identity:
        """Who sends a cookie.

        Raises:
            Unauthenticated: it is not ours, has expired, or was ended.
        """
        return await self._identify(text, COOKIE)

    async def end(self, identity: Identity, actor: Actor) -> None:
        """End all sessions of the admin, or all that began with this service token; on every replica."""
        now = self._now()
        async with self._store.write() as connection:
            await bump(connection, _epoch_name(identity), now)
            await audit.record(connection, actor, "session.end", at=now, subject=_subject(identity))

    async def _start(self, identity: Identity, actor: Actor, audience: Audience, now: datetime) -> Started:
        assert identity.expires_at is not None
        after = {"role": identity.role, "by": "cookie" if audience == COOKIE else "bearer"}
        async with self._store.write() as connection:
            epoch = await _epoch(connection, identity)
            await audit.record(connection, actor, "session.create", at=now, subject=_subject(identity), after=after)
        seconds = int((identity.expires_at - now.replace(microsecond=0)).total_seconds())
        secret = issue(
            identity.name,
            secret=self._secret,
            now=now,
            epoch=epoch,
            token_bytes=self._token_bytes,
            ttl=seconds,
            audience=audience,
            token_id=identity.token_id,
        )
        return Started(secret, identity, seconds)

    async def _identify(self, text: str, audience: Audience) -> Identity:
        """A forged one is refused without asking the store."""
        claims = verify(text, secret=self._secret, now=self._now(), audience=audience)
        if claims is None:
            raise Unauthenticated("the session token is invalid or has expired, or its session was ended")
        if claims.token_id is not None:
            token = await self._service_tokens.identify_id(claims.token_id)
            if token is None:
                raise Unauthenticated("the service token of this session has expired or was revoked")
            identity = _viewer(token, claims.expires_at)
        elif claims.username == self._username:
            identity = Identity(self._username, "admin", _ADMIN_SCOPES, claims.expires_at)
        else:
            raise Unauthenticated("the session token is invalid or has expired, or its session was ended")
        async with self._store.read() as connection:
            current = await _epoch(connection, identity)
        if claims.epoch != current:
            raise Unauthenticated("the session was ended, sign in again")
        return identity


def _viewer(token: Identity, ends: datetime) -> Identity:
    until = ends if token.expires_at is None else min(ends, token.expires_at.replace(microsecond=0))
    return replace(token, role="viewer", scopes=read_only(token.scopes), expires_at=until)


def _subject(identity: Identity) -> tuple[str, str]:
    return ("session", identity.name[:64])  # as much as the audit log has room for


def _epoch_name(identity: Identity) -> str:
    return _EPOCH if identity.token_id is None else identity.token_id.hex


async def _epoch(connection: AsyncConnection, identity: Identity) -> int:
    return (await read_all(connection)).get(_epoch_name(identity), 0)
