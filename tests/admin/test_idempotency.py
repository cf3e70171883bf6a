"""Idempotency-Key: a POST that is sent twice is done once, and a secret is shown once."""

import asyncio
import json

import httpx
import pytest
from sqlalchemy import func, select

from daemon.services.idempotency import Asked, Kept, forget_old
from daemon.store.tables import access_keys, idempotency_keys, users
from tests.admin.conftest import Plane, new_user
from tests.admin.test_security import _is_the_one_shape
from tests.admin.test_tokens import new_token, with_token

KEY = {"idempotency-key": "9b2d7d0e-0c3f-4b6e-9a50-52a4c7a6f8aa"}


async def count(plane: Plane, table: object) -> int:
    async with plane.store.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())  # type: ignore[arg-type]


async def test_the_same_request_is_done_once_and_answered_twice(plane: Plane, admin: httpx.AsyncClient) -> None:
    first = await admin.post("/admin/users", json={"name": "alice"}, headers=KEY)
    again = await admin.post("/admin/users", json={"name": "alice"}, headers=KEY)
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert "idempotent-replayed" not in first.headers
    assert (again.headers["idempotent-replayed"], again.headers["etag"]) == ("true", first.headers["etag"])
    assert await count(plane, users) == 1


async def test_a_refusal_changed_nothing_so_the_next_try_is_judged_anew(admin: httpx.AsyncClient) -> None:
    taken = await new_user(admin, "alice")
    assert (await admin.post("/admin/users", json={"name": "alice"}, headers=KEY)).status_code == 409
    await admin.delete(f"/admin/users/{taken['id']}")
    assert (await admin.post("/admin/users", json={"name": "alice"}, headers=KEY)).status_code == 201


async def test_another_request_under_the_same_key_is_refused(plane: Plane, admin: httpx.AsyncClient) -> None:
    await admin.post("/admin/users", json={"name": "alice"}, headers=KEY)
    other = await admin.post("/admin/users", json={"name": "bob"}, headers=KEY)
    assert (other.status_code, other.json()["error"]["type"]) == (422, "idempotency_key_reused")
    assert _is_the_one_shape(other)
    assert await count(plane, users) == 1


async def test_a_secret_is_shown_once_and_never_kept(plane: Plane, admin: httpx.AsyncClient) -> None:
    user = await new_user(admin, "alice")
    path = f"/admin/users/{user['id']}/access-keys"
    first = await admin.post(path, json={"name": "laptop"}, headers=KEY)
    again = await admin.post(path, json={"name": "laptop"}, headers=KEY)
    assert (again.status_code, again.json()["error"]["type"]) == (409, "secret_already_shown")
    assert again.json()["object"]["id"] == first.json()["id"]
    assert "access_key" not in again.json()["object"]
    assert await count(plane, access_keys) == 1
    async with plane.store.read() as connection:
        kept = (await connection.execute(select(idempotency_keys.c.answer))).scalars().all()
    assert all(first.json()["access_key"] not in text for text in kept)
    token = {"name": "ci", "scopes": ["users:read"], "expires_at": None}
    other = {"idempotency-key": "another"}
    made = await admin.post("/admin/tokens", json=token, headers=other)
    shown = await admin.post("/admin/tokens", json=token, headers=other)
    assert (made.status_code, shown.status_code, made.json()["token"] in shown.text) == (201, 409, False)


async def test_keys_of_two_senders_do_not_meet(plane: Plane, admin: httpx.AsyncClient) -> None:
    token = await new_token(plane, scopes=["users:write"])
    await admin.post("/admin/users", json={"name": "alice"}, headers=KEY)
    async with with_token(plane, token["token"]) as other:
        assert (await other.post("/admin/users", json={"name": "bob"}, headers=KEY)).status_code == 201


async def test_of_many_at_once_one_is_done(plane: Plane, admin: httpx.AsyncClient) -> None:
    async def post() -> httpx.Response:
        return await admin.post("/admin/users", json={"name": "alice"}, headers=KEY)

    answers = await asyncio.gather(*(post() for _ in range(12)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    waiting = [answer for answer in answers if answer.status_code == 409]
    assert all(answer.json()["error"]["type"] == "idempotency_in_progress" for answer in waiting)
    assert all(answer.headers["retry-after"] == "1" for answer in waiting)
    assert {answer.json()["id"] for answer in answers if answer.status_code == 201} == {
        (await post()).json()["id"]  # and whoever waited gets it now
    }
    assert await count(plane, users) == 1


async def test_what_failed_on_our_side_may_be_tried_again(
    plane: Plane, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(plane.app.state.services.users, "create_user", fail)
        assert (await admin.post("/admin/users", json={"name": "alice"}, headers=KEY)).status_code == 500
    assert (await admin.post("/admin/users", json={"name": "alice"}, headers=KEY)).status_code == 201


async def test_a_claim_whose_daemon_died_is_free_after_a_minute_and_answers_go_after_a_day(plane: Plane) -> None:
    services = plane.app.state.services
    asked = Asked("admin", "k", "f")
    assert await services.idempotency.claim(asked) is None
    with pytest.raises(Exception, match="is being done"):
        await services.idempotency.claim(asked)
    plane.clock.forward(seconds=61)
    assert await services.idempotency.claim(asked) is None
    await services.idempotency.keep(asked, Kept(200, json.dumps({}), None, False))
    assert await services.idempotency.claim(asked) == Kept(200, "{}", None, False)
    await forget_old(plane.store, plane.clock())
    assert await count(plane, idempotency_keys) == 1
    plane.clock.forward(days=1, seconds=1)
    assert await services.idempotency.claim(asked) is None
    plane.clock.forward(days=2)
    await forget_old(plane.store, plane.clock())
    assert await count(plane, idempotency_keys) == 0


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "a b", "ü".encode()])
async def test_a_key_that_is_none_is_refused(admin: httpx.AsyncClient, key: str | bytes) -> None:
    raw = key if isinstance(key, bytes) else key.encode()
    answer = await admin.post("/admin/users", json={"name": "alice"}, headers=[(b"idempotency-key", raw)])
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "idempotency-key")
    assert (await admin.get("/admin/users")).json()["items"] == []
