import asyncio

import httpx
from sqlalchemy import func, select

from daemon.store.tables import audit_log, users
from tests.admin.conftest import Plane, new_key, new_user


async def test_a_created_user_is_returned_and_found_again(admin: httpx.AsyncClient) -> None:
    created = await new_user(admin, "  alice  ", team="platform")
    assert (created["name"], created["result"], created["version"]) == ("alice", "created", 1)
    found = await admin.get(f"/admin/users/{created['id']}")
    assert found.json() == {key: value for key, value in created.items() if key != "result"}
    assert found.headers["etag"] == '"1"'
    listed = await admin.get("/admin/users", params={"name": "alice"})
    assert [user["id"] for user in listed.json()["items"]] == [created["id"]]


async def test_of_many_creates_of_one_name_one_succeeds(plane: Plane, admin: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(admin.post("/admin/users", json={"name": "ci"}) for _ in range(100)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 99
    refused = next(answer for answer in answers if answer.status_code == 409).json()
    assert (refused["error"]["type"], refused["error"]["field"]) == ("conflict", "name")
    async with plane.store.read() as connection:
        assert await connection.scalar(select(func.count()).select_from(users)) == 1
        created = select(func.count()).where(audit_log.c.action == "user.create")
        assert await connection.scalar(created) == 1


async def test_a_name_is_free_again_after_its_user_was_deleted(plane: Plane, admin: httpx.AsyncClient) -> None:
    first = await new_user(admin)
    key = await new_key(admin, first["id"])
    assert (await admin.delete(f"/admin/users/{first['id']}")).status_code == 204
    assert (await admin.get(f"/admin/users/{first['id']}")).status_code == 404
    assert (await admin.delete(f"/admin/users/{first['id']}")).status_code == 404
    assert (await admin.get(f"/admin/access-keys/{key['id']}")).status_code == 404
    assert (await new_user(admin))["id"] != first["id"]
    assert len(plane.changes) == 4


async def test_pages_of_users_hold_each_user_once(plane: Plane, admin: httpx.AsyncClient) -> None:
    for number in range(7):
        await new_user(admin, f"user-{number}")
        plane.clock.forward(seconds=1)
    seen, cursor = [], None
    while True:
        params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await admin.get("/admin/users", params=params)).json()
        seen += [user["name"] for user in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"user-{number}" for number in range(7)]


async def test_a_stale_version_is_a_conflict_and_changes_nothing(admin: httpx.AsyncClient) -> None:
    user = await new_user(admin)
    path = f"/admin/users/{user['id']}"
    changed = await admin.patch(path, json={"description": "one"}, headers={"if-match": '"1"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    for tag in ('"1"', "garbage"):
        stale = await admin.patch(path, json={"description": "two"}, headers={"if-match": tag})
        assert stale.status_code == 409
    assert (await admin.get(path)).json()["description"] == "one"


async def test_a_null_clears_and_an_absent_field_stays(admin: httpx.AsyncClient) -> None:
    user = await new_user(admin, team="platform", description="laptop users")
    path = f"/admin/users/{user['id']}"
    changed = (await admin.patch(path, json={"team": None})).json()
    assert (changed["team"], changed["description"]) == (None, "laptop users")
    refused = await admin.patch(path, json={"name": None})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "name")


async def test_the_routing_strategy_is_set_by_its_own_path(admin: httpx.AsyncClient) -> None:
    user = await new_user(admin)
    path = f"/admin/users/{user['id']}/routing-strategy"
    assert (await admin.put(path, json={"routing_strategy": "plan_only"})).json()["routing_strategy"] == "plan_only"
    assert (await admin.put(path, json={"routing_strategy": "fastest"})).status_code == 422


async def test_every_change_has_its_audit_row(admin: httpx.AsyncClient) -> None:
    user = await new_user(admin)
    changed = await admin.patch(f"/admin/users/{user['id']}", json={"name": "bob"})
    entries = (await admin.get("/admin/audit", params={"object_id": user["id"]})).json()["items"]
    assert [entry["action"] for entry in entries] == ["user.update", "user.create"]
    assert (entries[0]["before"], entries[0]["after"]) == ({"name": "alice"}, {"name": "bob"})
    assert entries[0]["request_id"] == changed.headers["request-id"]
    assert (entries[0]["actor"], entries[0]["remote_address"]) == ("admin", "127.0.0.1")


async def test_a_user_can_have_a_budget_from_the_beginning(admin: httpx.AsyncClient) -> None:
    limited = await new_user(admin, "carol", budget_usd="200.00", budget_period="weekly")
    status = (await admin.get(f"/admin/users/{limited['id']}/budget")).json()
    assert (status["budget_usd"], status["period"]) == ("200.000000000", "weekly")
    refused = await admin.post("/admin/users", json={"name": "dave", "budget_usd": "1e3"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "budget_usd")
