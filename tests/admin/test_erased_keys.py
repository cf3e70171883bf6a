"""Credentials that nobody can use any more are not kept: they go with the access key, and with the user."""

from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select

from daemon.store.tables import bedrock_keys
from tests.admin.conftest import Plane, new_key, new_user

API_KEY = {"auth": "api_key", "api_key": "ABSKc2VjcmV0LW9mLXRoaXMtdGVzdA=="}


async def _registered(admin: httpx.AsyncClient, plane: Plane, user_id: str, name: str) -> str:
    key = await new_key(admin, user_id, name=name)
    for _ in range(2):  # the first is replaced, and erased with that
        plane.clock.forward(seconds=1)
        answer = await admin.post(f"/admin/access-keys/{key['id']}/bedrock-key", json=API_KEY)
        assert answer.status_code == 201, answer.text
    return str(key["id"])


async def _rows(plane: Plane, access_key_id: str) -> list[Any]:
    query = select(bedrock_keys).where(bedrock_keys.c.access_key_id == UUID(access_key_id)).order_by(bedrock_keys.c.id)
    async with plane.store.read() as connection:
        return list((await connection.execute(query)).all())


@pytest.mark.parametrize("target", ["access key", "user"])
async def test_with_its_access_key_or_user_a_bedrock_key_goes_and_no_other(
    admin: httpx.AsyncClient, plane: Plane, target: str
) -> None:
    mine, other = (await new_user(admin))["id"], (await new_user(admin, name="bob"))["id"]
    gone = await _registered(admin, plane, mine, "gone")
    kept = await _registered(admin, plane, other, "kept")
    first, last = await _rows(plane, gone)
    plane.clock.forward(minutes=5)
    path = f"/admin/access-keys/{gone}" if target == "access key" else f"/admin/users/{mine}"
    assert (await admin.delete(path)).status_code in (200, 204)
    rows = await _rows(plane, gone)
    assert [row.sealed_secret for row in rows] == [b"", b""]
    assert [row.deleted_at for row in rows] == [first.deleted_at, plane.clock()]
    assert rows[1].fingerprint == last.fingerprint
    _, alive = await _rows(plane, kept)
    assert alive.deleted_at is None
    assert alive.sealed_secret


async def test_a_key_that_is_revoked_twice_keeps_the_time_of_the_first(admin: httpx.AsyncClient, plane: Plane) -> None:
    key = await _registered(admin, plane, (await new_user(admin))["id"], "laptop")
    await admin.delete(f"/admin/access-keys/{key}")
    revoked_at = plane.clock()
    plane.clock.forward(minutes=5)
    await admin.delete(f"/admin/access-keys/{key}")
    assert [row.deleted_at for row in await _rows(plane, key)][1] == revoked_at
