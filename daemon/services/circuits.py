"""Circuits for the operator: how they stand, and a reset. The data plane opens and closes them."""

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, RowMapping, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.circuits import Circuit, CircuitState
from daemon.contract.common import Page
from daemon.services import audit, cursors
from daemon.services.audit import Actor
from daemon.services.errors import NotFound
from daemon.store.engine import Store
from daemon.store.epochs import bump
from daemon.store.tables import access_keys, bedrock_keys, circuits, users

_Names = dict[str, tuple[str, str]]  # user and key, by what the circuit belongs to


class Circuits:
    """Use cases of circuits. `on_change` runs after every reset."""

    def __init__(self, store: Store, *, now: Callable[[], datetime], on_change: Callable[[], None]) -> None:
        self._store = store
        self._now = now
        self._on_change = on_change

    async def list_circuits(
        self,
        *,
        limit: int,
        cursor: str | None,
        access_key_id: UUID | None = None,
        provider: str | None = None,
        state: CircuitState | None = None,
    ) -> Page[Circuit]:
        """Circuits in the order they came to be; those of an access key with those of its Bedrock keys."""
        query = select(circuits).order_by(circuits.c.id).limit(limit + 1)
        after = cursors.decode_id(cursor)
        if after is not None:
            query = query.where(circuits.c.id > after)
        if provider is not None:
            query = query.where(circuits.c.provider == provider)
        if state is not None:
            query = query.where(_in_state(state, self._now()))
        async with self._store.read() as connection:
            if access_key_id is not None:
                query = query.where(await _of_key(connection, access_key_id))
            rows = (await connection.execute(query)).mappings().all()
            names = await _names(connection, rows)
        more = cursors.encode(rows[limit - 1]["id"]) if len(rows) > limit else None
        return Page(items=[_circuit(row, names, self._now()) for row in rows[:limit]], next_cursor=more)

    async def reset_circuit(self, circuit_id: UUID, actor: Actor) -> None:
        """Forget a circuit: its provider is tried again from the next request on.

        Raises:
            NotFound
        """
        now = self._now()
        async with self._store.write() as connection:
            query = select(circuits).where(circuits.c.id == circuit_id).with_for_update()
            row = (await connection.execute(query)).mappings().one_or_none()
            if row is None:
                raise NotFound("no such circuit")
            await connection.execute(delete(circuits).where(circuits.c.id == circuit_id))
            before = {name: row[name] for name in ("scope", "scope_id", "provider", "last_failure")}
            before["state"] = state_of(row["opened_at"], row["open_until"], now)
            subject = ("circuit", circuit_id)
            await audit.record(connection, actor, "circuit.reset", at=now, subject=subject, before=before)
            await bump(connection, "routing", now)
        self._on_change()


def state_of(opened_at: datetime | None, open_until: datetime | None, now: datetime) -> CircuitState:
    """The state of a circuit at an instant; a circuit whose time is over waits for a probe."""
    if opened_at is None:
        return "closed"
    return "open" if open_until is not None and open_until > now else "half_open"


def _in_state(state: CircuitState, now: datetime) -> ColumnElement[bool]:
    """`state_of`, as the store understands it."""
    if state == "closed":
        return circuits.c.opened_at.is_(None)
    opened, until = circuits.c.opened_at.is_not(None), circuits.c.open_until
    return opened & (until > now if state == "open" else or_(until.is_(None), until <= now))


async def _of_key(connection: AsyncConnection, key_id: UUID) -> ColumnElement[bool]:
    """The circuits that stand between a key and its providers, but for one that all share."""
    registered = await connection.scalars(select(bedrock_keys.c.id).where(bedrock_keys.c.access_key_id == key_id))
    own = (circuits.c.scope == "access_key") & (circuits.c.scope_id == str(key_id))
    return own | ((circuits.c.scope == "credential") & circuits.c.scope_id.in_([str(found) for found in registered]))


async def _names(connection: AsyncConnection, rows: Sequence[RowMapping]) -> _Names:
    """Names of the keys that circuits belong to, revoked ones included: their circuits outlive them."""
    ids = [scope_id for row in rows if (scope_id := _uuid(row["scope_id"]))]
    if not ids:
        return {}
    columns = users.c.name.label("user_name"), access_keys.c.name
    keys = select(access_keys.c.id, *columns).join(users, users.c.id == access_keys.c.user_id)
    by_key = keys.where(access_keys.c.id.in_(ids))
    by_credential = (
        keys.with_only_columns(bedrock_keys.c.id, *columns)
        .join(bedrock_keys, bedrock_keys.c.access_key_id == access_keys.c.id)
        .where(bedrock_keys.c.id.in_(ids))
    )
    found = [row for query in (by_key, by_credential) for row in await connection.execute(query)]
    return {str(belongs_to): (user_name, name) for belongs_to, user_name, name in found}


def _circuit(row: RowMapping, names: _Names, now: datetime) -> Circuit:
    state = state_of(row["opened_at"], row["open_until"], now)
    user_name, key_name = names.get(row["scope_id"], (None, None))
    derived: dict[str, Any] = {
        "user_name": user_name,
        "access_key_name": key_name,
        "state": state,
        "seconds_left": math.ceil((row["open_until"] - now).total_seconds()) if state == "open" else None,
        "failures": len(row["failures"]),
        "probe_running": row["probe_until"] is not None and row["probe_until"] > now,
    }
    return Circuit.model_validate(dict(row) | derived)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
