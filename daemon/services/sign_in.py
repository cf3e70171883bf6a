"""Signing in: a password against its hash, a session in exchange."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.auth import AccessToken, Session
from daemon.security.passwords import verify_password
from daemon.security.sessions import LIFETIME_SECONDS, issue, verify
from daemon.services import audit
from daemon.services.audit import Actor
from daemon.services.errors import Unauthenticated
from daemon.services.throttle import Throttle
from daemon.store.engine import Store
from daemon.store.epochs import bump, read_all

_AT_ONCE = 2  # a hash costs 64 MiB and a core
_EPOCH = "sessions"
_SHOWN = 64


class SignIn:
    """Sessions of the configured admin."""

    def __init__(
        self,
        store: Store,
        *,
        jwt_secret: bytes,
        username: str,
        password_hash: str,
        now: Callable[[], datetime],
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._store = store
        # bound to name and password: a change of either ends all sessions
        self._secret = hmac.new(jwt_secret, f"{username}\0{password_hash}".encode(), hashlib.sha256).digest()
        self._username = username
        self._password_hash = password_hash
        self._now = now
        self._token_bytes = token_bytes
        self._throttle = Throttle(now)
        self._hashing = asyncio.Semaphore(_AT_ONCE)

    async def sign_in(self, username: str, password: str, actor: Actor) -> AccessToken:
        """A session. A wrong password and an unknown user cost the same and get the same answer.

        Raises:
            Unauthenticated, Throttled.
        """
        account, address = username[:_SHOWN], actor.remote_address or ""
        self._throttle.attempt(account, address)
        async with self._hashing:
            matches = await asyncio.to_thread(verify_password, password, self._password_hash)
        known = hmac.compare_digest(
            username.encode(errors="surrogatepass"), self._username.encode(errors="surrogatepass")
        )
        now = self._now()
        if not (known and matches):
            failed = replace(actor, name=_printable(account))
            async with self._store.write() as connection:
                await audit.record(connection, failed, "session.refused", at=now, subject=("session", failed.name))
            raise Unauthenticated("wrong user name or password")
        self._throttle.succeeded(account, address)
        actor = replace(actor, name=self._username)
        async with self._store.write() as connection:
            epoch = await _epoch(connection)
            await audit.record(connection, actor, "session.create", at=now, subject=("session", self._username))
        token = issue(self._username, secret=self._secret, now=now, epoch=epoch, token_bytes=self._token_bytes)
        ends = now.replace(microsecond=0) + timedelta(seconds=LIFETIME_SECONDS)
        return AccessToken(access_token=token, expires_in=LIFETIME_SECONDS, expires_at=ends)

    async def session(self, token: str) -> Session:
        """Whose token this is. A forged one is refused without asking the store.

        Raises:
            Unauthenticated: it is not ours, has expired, or was ended.
        """
        claims = verify(token, secret=self._secret, now=self._now())
        if claims is None or claims.username != self._username:
            raise Unauthenticated("sign in first")
        async with self._store.read() as connection:
            current = await _epoch(connection)
        if claims.epoch != current:
            raise Unauthenticated("the session was ended, sign in again")
        return Session(username=claims.username, role="admin", expires_at=claims.expires_at)

    async def sign_out(self, actor: Actor) -> None:
        """End all sessions of the admin, on every replica."""
        now = self._now()
        async with self._store.write() as connection:
            await bump(connection, _EPOCH, now)
            await audit.record(connection, actor, "session.end", at=now, subject=("session", actor.name))


async def _epoch(connection: AsyncConnection) -> int:
    return (await read_all(connection)).get(_EPOCH, 0)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text) or "(empty)"
