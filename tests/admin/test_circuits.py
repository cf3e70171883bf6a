from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, insert, select

from daemon.services.circuits import state_of
from daemon.services.ids import uuid7
from daemon.store.epochs import read_all
from daemon.store.tables import circuits
from tests.admin.conftest import Plane, new_key, new_user
from tests.admin.test_models import register_bedrock_key
from tests.admin.test_security import _is_the_one_shape


async def new_circuit(plane: Plane, scope_id: str, **values: Any) -> str:
    now = plane.clock()
    row = {
        "id": uuid7(now, bytes),
        "scope": "access_key",
        "scope_id": scope_id,
        "provider": "plan",
        "failures": [now.isoformat()] * 3,
        "last_failure": "rate_limited",
        "opened_at": now,
        "open_until": now + timedelta(seconds=30),
        "updated_at": now,
    } | values
    async with plane.store.write() as connection:
        await connection.execute(insert(circuits).values(row))
    plane.clock.forward(seconds=1)
    return str(row["id"])


async def listed(admin: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    answer = await admin.get("/admin/circuits", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


async def test_a_circuit_is_open_until_its_time_is_over_and_then_waits_for_a_probe(
    plane: Plane, admin: httpx.AsyncClient
) -> None:
    key = await new_key(admin, (await new_user(admin))["id"])
    await new_circuit(plane, key["id"], probe_owner="a", probe_until=plane.clock() + timedelta(seconds=90))
    [circuit] = await listed(admin)
    assert (circuit["state"], circuit["seconds_left"]) == ("open", 29)
    assert (circuit["user_name"], circuit["access_key_name"]) == ("alice", "laptop")
    assert (circuit["failures"], circuit["last_failure"], circuit["probe_running"]) == (3, "rate_limited", True)
    plane.clock.forward(seconds=29)
    [circuit] = await listed(admin)
    assert (circuit["state"], circuit["seconds_left"], circuit["probe_running"]) == ("half_open", None, True)
    plane.clock.forward(seconds=60)
    assert not (await listed(admin))[0]["probe_running"]


async def test_circuits_are_found_by_key_provider_and_state(plane: Plane, admin: httpx.AsyncClient) -> None:
    key = await new_key(admin, (await new_user(admin))["id"])
    opened = await new_circuit(plane, key["id"])
    half = await new_circuit(plane, key["id"], provider="bedrock", open_until=plane.clock())
    closed = await new_circuit(plane, "abc", scope="credential", opened_at=None, open_until=None, failures=[])
    assert [item["id"] for item in await listed(admin)] == [opened, half, closed]
    assert [item["id"] for item in await listed(admin, access_key_id=key["id"])] == [opened, half]
    assert [item["id"] for item in await listed(admin, provider="bedrock")] == [half]
    for state, circuit_id in (("open", opened), ("half_open", half), ("closed", closed)):
        assert [item["id"] for item in await listed(admin, state=state)] == [circuit_id]
        assert [item["id"] for item in await listed(admin) if item["state"] == state] == [circuit_id]
    assert (await listed(admin, state="closed"))[0]["user_name"] is None


async def test_the_circuits_of_a_key_are_its_own_and_those_of_its_bedrock_key(
    plane: Plane, admin: httpx.AsyncClient
) -> None:
    user = await new_user(admin)
    key, other = await new_key(admin, user["id"]), await new_key(admin, user["id"], "other")
    credential = await register_bedrock_key(plane, key["id"])
    made = [
        await new_circuit(plane, key["id"], provider="bedrock"),
        await new_circuit(plane, credential, scope="credential", provider="bedrock"),
    ]
    await new_circuit(plane, "plan", scope="credential")
    await new_circuit(plane, other["id"])
    found = await listed(admin, access_key_id=key["id"])
    assert [item["id"] for item in found] == made
    assert {(item["user_name"], item["access_key_name"]) for item in found} == {("alice", "laptop")}
    assert [item["access_key_name"] for item in await listed(admin)] == ["laptop", "laptop", None, "other"]


async def test_pages_of_circuits_hold_each_once(plane: Plane, admin: httpx.AsyncClient) -> None:
    made = [await new_circuit(plane, f"scope-{number}") for number in range(5)]
    first = (await admin.get("/admin/circuits", params={"limit": 3})).json()
    rest = await listed(admin, cursor=first["next_cursor"])
    assert [item["id"] for item in [*first["items"], *rest]] == made


async def test_a_circuit_of_a_revoked_key_keeps_its_names(plane: Plane, admin: httpx.AsyncClient) -> None:
    user = await new_user(admin)
    key = await new_key(admin, user["id"])
    await new_circuit(plane, key["id"])
    await admin.delete(f"/admin/users/{user['id']}")
    assert (await listed(admin))[0]["access_key_name"] == "laptop"


async def test_a_reset_forgets_the_circuit_and_is_announced(plane: Plane, admin: httpx.AsyncClient) -> None:
    circuit_id = await new_circuit(plane, "abc")
    assert (await admin.post(f"/admin/circuits/{circuit_id}/reset")).status_code == 204
    assert (await admin.post(f"/admin/circuits/{circuit_id}/reset")).status_code == 404
    assert plane.announced == ["routing"]
    async with plane.store.read() as connection:
        assert await connection.scalar(select(func.count()).select_from(circuits)) == 0
        assert (await read_all(connection))["routing"] == 1
    [entry] = (await admin.get("/admin/audit", params={"object_id": circuit_id})).json()["items"]
    assert (entry["action"], entry["before"]["provider"], entry["before"]["state"]) == ("circuit.reset", "plan", "open")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/admin/circuits/not-an-id/reset", 404),
        ("POST", f"/admin/circuits/{UUID(int=0)}/reset", 404),
        ("GET", f"/admin/circuits/{UUID(int=0)}/reset", 405),
        ("GET", "/admin/circuits?cursor=forged", 422),
        ("GET", "/admin/circuits?state=ajar", 422),
        ("GET", "/admin/circuits?access_key_id=x", 422),
        ("GET", "/admin/circuits?provider=", 422),
    ],
)
async def test_a_bad_path_or_query_about_circuits_is_refused(
    admin: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await admin.request(method, path)
    assert (answer.status_code, _is_the_one_shape(answer)) == (status, True), answer.text


def test_the_state_follows_from_three_instants() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert state_of(None, None, now) == "closed"
    assert state_of(None, now + timedelta(days=1), now) == "closed"
    assert state_of(now, now + timedelta(microseconds=1), now) == "open"
    assert state_of(now, now, now) == "half_open"
    assert state_of(now, None, now) == "half_open"
