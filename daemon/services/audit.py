"""The audit log: a row for every change, in the transaction of the change."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.audit import AuditEntry
from daemon.contract.common import Page
from daemon.services import cursors
from daemon.store.engine import Store
from daemon.store.tables import audit_log


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, from where, in which request."""

    name: str
    remote_address: str | None
    request_id: str


async def record(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    *,
    at: datetime,
    subject: tuple[str, object],
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write one row in the caller's transaction; when it cannot be written, the change is undone with it."""
    await connection.execute(
        insert(audit_log).values(
            at=at,
            actor=actor.name,
            action=action,
            object_type=subject[0],
            object_id=str(subject[1]),
            before=before,
            after=after,
            remote_address=actor.remote_address,
            request_id=actor.request_id,
        )
    )


class Audit:
    """Reads the log; nothing changes it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list_entries(
        self,
        *,
        limit: int,
        cursor: str | None,
        since: datetime | None = None,
        until: datetime | None = None,
        **only: str | None,
    ) -> Page[AuditEntry]:
        """Entries, newest first. `only`: columns that have to have a value; None is any."""
        query = select(audit_log).order_by(audit_log.c.id.desc()).limit(limit + 1)
        before = cursors.decode_number(cursor)
        if before is not None:
            query = query.where(audit_log.c.id < before)
        for name, value in only.items():
            if value is not None:
                query = query.where(audit_log.c[name] == value)
        if since is not None:
            query = query.where(audit_log.c.at >= since)
        if until is not None:
            query = query.where(audit_log.c.at < until)
        async with self._store.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        more = cursors.encode(rows[limit - 1]["id"]) if len(rows) > limit else None
        return Page(items=[AuditEntry.model_validate(dict(row)) for row in rows[:limit]], next_cursor=more)
