"""Rows that a test puts into a daemon's store, where only a provider's failures would bring them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Table, insert

from daemon.secrets_store import database_url
from daemon.store.engine import Store
from daemon.store.tables import circuits, compatibility
from tests.support.daemon import RunningDaemon


async def put_row(daemon: RunningDaemon, table: Table, **values: Any) -> str:
    """A row, and its id."""
    store = Store.open(database_url(daemon.settings))
    try:
        async with store.write() as connection:
            row = {"id": uuid4()} | values
            await connection.execute(insert(table).values(row))
    finally:
        await store.aclose()
    return str(row["id"])


async def put_circuit(daemon: RunningDaemon, scope_id: str, **values: Any) -> str:
    """An open circuit: of an access key at the plan, unless `values` say otherwise."""
    now = datetime.now(UTC)
    row = {"scope": "access_key", "scope_id": scope_id, "provider": "plan", "failures": [now.isoformat()]}
    row |= {"opened_at": now, "open_until": now + timedelta(hours=1), "last_failure": "overloaded", "updated_at": now}
    return await put_row(daemon, circuits, **(row | values))


async def put_learned(daemon: RunningDaemon, **values: Any) -> str:
    """Something that was learned about a model on Bedrock."""
    now = datetime.now(UTC)
    row = {"provider": "bedrock", "region": "eu-west-1", "model": "eu.anthropic.claude-opus-5-5", "kind": "field"}
    row |= {"value": "context_management", "reason": "context_management: Extra inputs are not permitted"}
    row |= {"learned_at": now, "expires_at": now + timedelta(days=1)}
    return await put_row(daemon, compatibility, **(row | values))
