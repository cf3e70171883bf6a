"""Signing in: a password against its hash, a session in exchange."""

import asyncio
import hmac
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from daemon.security.passwords import verify_password
from daemon.security.sessions import Audience
from daemon.services import audit
from daemon.services.audit import Actor
from daemon.services.errors import Throttled, Unauthenticated
from daemon.services.refusals import Refusals
from daemon.services.sessions import Sessions, Started
from daemon.services.throttle import Attempt, Throttle
from daemon.services.turns import Busy, Turns
from daemon.store.engine import Store

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_AT_ONCE = max(1, min(2, _CORES - 1))  # a hash costs 64 MiB and a core; one core is for everything else
_WAITING = 3 * _AT_ONCE  # so that the last of them has its turn within a second
_SHOWN = 64


class SignIn:
    """Signs the configured admin in."""

    def __init__(
        self, store: Store, sessions: Sessions, *, username: str, password_hash: str, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._username = username
        self._password_hash = password_hash
        self._now = now
        self._throttle = Throttle(now)
        self._turns = Turns(at_once=_AT_ONCE, waiting=_WAITING)
        self._refusals = Refusals()

    async def sign_in(self, username: str, password: str, actor: Actor, audience: Audience) -> Started:
        """A session. A wrong password and an unknown user cost the same and get the same answer.

        Raises:
            Unauthenticated, Throttled.
        """
        account = username[:_SHOWN]
        try:
            attempt = self._throttle.attempt(account, actor.remote_address or "")
            matches = await self._check(password, attempt)
        except Throttled:
            self._refusals.note(actor.remote_address, self._now())
            await self._tell_refusals(actor)
            raise
        known = hmac.compare_digest(
            username.encode(errors="surrogatepass"), self._username.encode(errors="surrogatepass")
        )
        await self._tell_refusals(actor)
        if not (known and matches):
            failed = replace(actor, name=_printable(account))
            async with self._store.write() as connection:
                subject = ("session", failed.name)
                await audit.record(connection, failed, "session.refused", at=self._now(), subject=subject)
            raise Unauthenticated("wrong user name or password")
        self._throttle.succeeded(attempt)
        return await self._sessions.start(replace(actor, name=self._username), audience)

    async def _check(self, password: str, attempt: Attempt) -> bool:
        """Whether the password is right; off the event loop, when its turn has come."""
        try:
            async with self._turns.turn(attempt.suspicion):
                return await asyncio.to_thread(verify_password, password, self._password_hash)
        except Busy:
            self._throttle.unchecked(attempt)
            raise Throttled("too many are signing in at once, try again", retry_after=1) from None

    async def _tell_refusals(self, actor: Actor) -> None:
        now = self._now()
        row = self._refusals.due(now)
        if row is not None:
            somebody = replace(actor, name="anonymous")
            async with self._store.write() as connection:
                subject = ("session", "throttled")
                await audit.record(connection, somebody, "session.throttled", at=now, subject=subject, after=row)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text) or "(empty)"
