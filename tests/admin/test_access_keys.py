import httpx
from sqlalchemy import select

from daemon.core.identity import looks_like_access_key
from daemon.security.access_keys import hash_key
from daemon.services.directory import Principal
from daemon.store.tables import access_keys, audit_log
from tests.admin.conftest import HASHER_SECRET, Plane, new_key, new_user


async def _lookup(plane: Plane, raw: str) -> Principal | None:
    return await plane.services.directory.lookup(hash_key(raw, HASHER_SECRET), plane.clock())


async def test_a_key_is_shown_once_and_stored_as_a_hash(plane: Plane, admin: httpx.AsyncClient) -> None:
    user = await new_user(admin)
    key = await new_key(admin, user["id"])
    raw = key["access_key"]
    assert looks_like_access_key(raw)
    for path in (f"/admin/access-keys/{key['id']}", "/admin/access-keys", f"/admin/users/{user['id']}/access-keys"):
        answer = await admin.get(path)
        assert answer.status_code == 200
        assert key["id"] in answer.text
        assert raw not in answer.text
        assert "hash" not in answer.text
    async with plane.store.read() as connection:
        stored = (await connection.execute(select(access_keys))).all()
        audited = (await connection.execute(select(audit_log))).all()
    assert raw not in repr(stored) + repr(audited)
    assert stored[0].key_hash == hash_key(raw, HASHER_SECRET)


async def test_a_key_finds_its_principal(plane: Plane, admin: httpx.AsyncClient) -> None:
    user = await new_user(admin, routing_strategy="plan_only")
    key = await new_key(admin, user["id"])
    principal = await _lookup(plane, key["access_key"])
    assert principal is not None
    assert (str(principal.user_id), principal.user_name) == (user["id"], "alice")
    assert (str(principal.access_key_id), principal.access_key_name) == (key["id"], "laptop")
    assert (principal.strategy, principal.valid_until) == ("plan_only", None)


async def test_a_rotated_key_works_until_the_end_of_its_grace(plane: Plane, admin: httpx.AsyncClient) -> None:
    key = await new_key(admin, (await new_user(admin))["id"])
    rotated = (await admin.post(f"/admin/access-keys/{key['id']}/rotate", json={"grace_seconds": 60})).json()
    assert (rotated["id"], rotated["result"]) == (key["id"], "rotated")
    plane.clock.forward(seconds=59)
    assert await _lookup(plane, key["access_key"]) is not None
    plane.clock.forward(seconds=1)
    assert await _lookup(plane, key["access_key"]) is None
    assert await _lookup(plane, rotated["access_key"]) is not None


async def test_a_rotation_without_body_has_five_minutes_of_grace(plane: Plane, admin: httpx.AsyncClient) -> None:
    key = await new_key(admin, (await new_user(admin))["id"])
    rotated = (await admin.post(f"/admin/access-keys/{key['id']}/rotate")).json()
    assert rotated["previous_expires_at"] == "2026-03-01T12:05:00Z"


async def test_a_rotation_without_grace_ends_the_old_key_at_once(plane: Plane, admin: httpx.AsyncClient) -> None:
    key = await new_key(admin, (await new_user(admin))["id"])
    await admin.post(f"/admin/access-keys/{key['id']}/rotate", json={"grace_seconds": 0})
    assert await _lookup(plane, key["access_key"]) is None


async def test_revoking_twice_is_one_change(plane: Plane, admin: httpx.AsyncClient) -> None:
    key = await new_key(admin, (await new_user(admin))["id"])
    path = f"/admin/access-keys/{key['id']}"
    answers = [await admin.delete(path) for _ in range(2)]
    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(200, "revoked")] * 2
    assert await _lookup(plane, key["access_key"]) is None
    assert (await admin.post(f"{path}/rotate")).status_code == 409
    audited = (await admin.get("/admin/audit", params={"action": "access_key.revoke"})).json()["items"]
    assert len(audited) == 1


async def test_an_inactive_user_and_an_expired_key_have_no_principal(plane: Plane, admin: httpx.AsyncClient) -> None:
    user = await new_user(admin)
    lasting = await new_key(admin, user["id"])
    short = await new_key(admin, user["id"], "short", expires_at="2026-03-01T13:00:00+00:00")
    plane.clock.forward(minutes=29)
    assert await _lookup(plane, short["access_key"]) is not None
    plane.clock.instant = plane.clock.instant.replace(hour=13, minute=0)
    assert await _lookup(plane, short["access_key"]) is None
    token = await plane.sign_in()
    headers = {"authorization": f"Bearer {token}"}
    await admin.patch(f"/admin/users/{user['id']}", json={"is_active": False}, headers=headers)
    assert await _lookup(plane, lasting["access_key"]) is None


async def test_key_names_are_unique_per_user(admin: httpx.AsyncClient) -> None:
    alice, bob = await new_user(admin), await new_user(admin, "bob")
    await new_key(admin, alice["id"])
    await new_key(admin, bob["id"])
    again = await admin.post(f"/admin/users/{alice['id']}/access-keys", json={"name": "laptop"})
    assert again.status_code == 409
