"""What the data plane learns while it runs, shared by all replicas: circuits, rules, and where sessions are."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, RowMapping, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.store.filters import live
from daemon.store.tables import circuits, compatibility, model_mappings, session_routes

CircuitKey = tuple[str, str, str]  # scope, scope id, provider
_FORGOTTEN = timedelta(days=30)  # no session lasts that long


async def load_circuits(connection: AsyncConnection) -> Sequence[RowMapping]:
    """All circuits with a failure in their recent past."""
    return (await connection.execute(select(circuits))).mappings().all()


async def change_circuit(
    connection: AsyncConnection,
    key: CircuitKey,
    change: Callable[[RowMapping | None], dict[str, Any] | None],
    *,
    new_id: UUID,
    now: datetime,
) -> dict[str, Any] | None:
    """Replace a circuit's row by what `change` makes of it, in the caller's transaction: None removes it.

    Two replicas that see a failure at once count two.
    """
    scope, scope_id, provider = key
    where = _is(key)
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    while True:
        row = (await connection.execute(select(circuits).where(*where).with_for_update())).mappings().one_or_none()
        values = change(row)
        if values is None:
            await connection.execute(delete(circuits).where(*where))
            return None
        values = values | {"updated_at": now}
        if row is not None:
            await connection.execute(update(circuits).where(circuits.c.id == row["id"]).values(values))
            return values
        fresh = {"id": new_id, "scope": scope, "scope_id": scope_id, "provider": provider} | values
        statement = insert(circuits).values(fresh).on_conflict_do_nothing().returning(circuits.c.id)
        if await connection.scalar(statement) is not None:
            return values
        # A row that is not there cannot be locked: another replica has been first, and its failure counts too.


async def take_probe(
    connection: AsyncConnection, key: CircuitKey, *, owner: str, now: datetime, until: datetime
) -> bool:
    """Whether this replica may send the one request that tries a half-open circuit.

    A circuit that never reached the store is the replica's own.
    """
    where = _is(key)
    statement = (
        update(circuits)
        .where(*where, circuits.c.open_until <= now)
        .where(or_(circuits.c.probe_until.is_(None), circuits.c.probe_until <= now))
        .values(probe_owner=owner, probe_until=until)
    )
    if (await connection.execute(statement)).rowcount == 1:
        return True
    return (await connection.scalar(select(circuits.c.id).where(*where))) is None


async def load_rules(connection: AsyncConnection, now: datetime) -> Sequence[RowMapping]:
    """Rules that have not expired; expired ones are deleted on the way."""
    await connection.execute(delete(compatibility).where(compatibility.c.expires_at <= now))
    return (await connection.execute(select(compatibility))).mappings().all()


async def save_rules(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Keep rules; one that is there already lives on until its new end."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(compatibility)
    renewed = {name: statement.excluded[name] for name in ("reason", "expires_at")}
    keys = ["provider", "region", "model", "kind", "value"]
    await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=renewed), list(rows))


async def load_sessions(connection: AsyncConnection, now: datetime) -> Sequence[RowMapping]:
    """Sessions that moved and still stay where they are, or whose thinking is being healed."""
    await connection.execute(delete(session_routes).where(session_routes.c.updated_at <= now - _FORGOTTEN))
    matters = or_(session_routes.c.until > now, session_routes.c.healing.is_not(None))
    return (await connection.execute(select(session_routes).where(matters))).mappings().all()


async def save_session(connection: AsyncConnection, row: dict[str, Any]) -> None:
    """Keep where a session is."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(session_routes).values(row)
    changed = {name: statement.excluded[name] for name in ("provider", "until", "healing", "updated_at")}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["access_key_id", "session_id"], set_=changed)
    )


async def load_mappings(connection: AsyncConnection) -> dict[str, str]:
    """The operators' model mappings."""
    query = select(model_mappings.c.claude_model, model_mappings.c.bedrock_model).where(live(model_mappings))
    return {row.claude_model: row.bedrock_model for row in await connection.execute(query)}


def _is(key: CircuitKey) -> tuple[ColumnElement[bool], ...]:
    scope, scope_id, provider = key
    return (circuits.c.scope == scope, circuits.c.scope_id == scope_id, circuits.c.provider == provider)
