"""POSTs that are sent twice are done once: the first answer is kept for a day under the sender's own key.

The answer is written after the change was committed, in a transaction of its own. A daemon that dies in between
leaves a claim without an answer: for a minute the same key is refused, then the request is done again. That a create
is not done twice even then is up to the unique names of users, keys, mappings and tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from daemon.services.errors import Conflict, Invalid
from daemon.store.engine import Store
from daemon.store.tables import idempotency_keys

KEPT = timedelta(days=1)
ABANDONED = timedelta(minutes=1)


class KeyReused(Invalid):
    """The key belongs to another request."""

    type = "idempotency_key_reused"


class InProgress(Conflict):
    """The first request with this key has not been answered yet."""

    type = "idempotency_in_progress"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as it is told from others: who sends it, under which key, and the hash of what it says."""

    actor: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Kept:
    """The first answer. `document` is JSON, without the secret that it may have held."""

    status: int
    document: str
    etag: str | None
    held_secret: bool


class Idempotency:
    """Claims and answers, shared by all replicas."""

    def __init__(self, store: Store, *, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def claim(self, asked: Asked) -> Kept | None:
        """None: the caller is the first and has to answer. Otherwise what was answered.

        Raises:
            KeyReused, InProgress.
        """
        now = self._now()
        row = {"actor": asked.actor, "key": asked.key, "fingerprint": asked.fingerprint, "claimed_at": now}
        mine = (idempotency_keys.c.actor == asked.actor, idempotency_keys.c.key == asked.key)
        try:
            async with self._store.write() as connection:
                await connection.execute(
                    delete(idempotency_keys).where(*mine, idempotency_keys.c.claimed_at < now - KEPT)
                )
                await connection.execute(insert(idempotency_keys).values(row))
                return None
        except IntegrityError:
            pass  # somebody was first
        async with self._store.write() as connection:
            found = (await connection.execute(select(idempotency_keys).where(*mine))).one_or_none()
            if found is None:
                raise _in_progress()  # just released: the next try is the first
            if found.fingerprint != asked.fingerprint:
                raise KeyReused("was used for another request: take a new one", field="idempotency-key")
            if found.status is not None:
                return Kept(found.status, found.answer, found.etag, found.held_secret)
            if found.claimed_at > now - ABANDONED:
                raise _in_progress()
            taken = await connection.execute(
                update(idempotency_keys)
                .where(*mine, idempotency_keys.c.claimed_at == found.claimed_at, idempotency_keys.c.status.is_(None))
                .values(claimed_at=now)
            )
            if taken.rowcount != 1:
                raise _in_progress()
        return None

    async def keep(self, asked: Asked, kept: Kept) -> None:
        """The answer to a claimed request."""
        async with self._store.write() as connection:
            await connection.execute(
                update(idempotency_keys)
                .where(idempotency_keys.c.actor == asked.actor, idempotency_keys.c.key == asked.key)
                .values(status=kept.status, answer=kept.document, etag=kept.etag, held_secret=kept.held_secret)
            )

    async def release(self, asked: Asked) -> None:
        """Nothing came of it: the next request with the key is the first."""
        async with self._store.write() as connection:
            await connection.execute(
                delete(idempotency_keys).where(
                    idempotency_keys.c.actor == asked.actor,
                    idempotency_keys.c.key == asked.key,
                    idempotency_keys.c.status.is_(None),
                )
            )


async def forget_old(store: Store, now: datetime) -> None:
    """Answers older than a day."""
    async with store.write() as connection:
        await connection.execute(delete(idempotency_keys).where(idempotency_keys.c.claimed_at < now - KEPT))


def _in_progress() -> InProgress:
    return InProgress("the first request with this idempotency-key is being done", retry_after=1)
