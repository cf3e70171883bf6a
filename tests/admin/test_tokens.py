"""Service tokens: scopes, expiry, revocation on every replica, and who is named in the audit log."""

from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from daemon.core.identity import looks_like_service_token
from daemon.core.scopes import NOUNS, covers, missing, read_only
from daemon.store.tables import service_tokens
from tests.admin.conftest import Plane, build_plane, new_user

LATER = "2026-06-01T00:00:00Z"


async def new_token(
    plane: Plane, name: str = "ci", *, scopes: list[str], expires_at: str | None = LATER
) -> dict[str, Any]:
    async with plane.anonymous() as client:
        client.headers["authorization"] = f"Bearer {await plane.sign_in()}"
        wanted = {"name": name, "scopes": scopes, "expires_at": expires_at}
        answer = await client.post("/admin/tokens", json=wanted)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def with_token(plane: Plane, token: str) -> httpx.AsyncClient:
    client = plane.anonymous()
    client.headers["authorization"] = f"Bearer {token}"
    return client


async def test_a_token_is_shown_once_and_kept_as_a_hash(plane: Plane, admin: httpx.AsyncClient) -> None:
    created = await new_token(plane, scopes=["users:read", "keys:write", "users:read"])
    assert looks_like_service_token(created["token"])
    assert (created["result"], created["scopes"]) == ("created", ["keys:write", "users:read"])
    listed = (await admin.get("/admin/tokens")).json()["items"]
    assert listed == [{key: value for key, value in created.items() if key not in ("token", "result")}]
    assert listed[0]["token_prefix"] == f"{created['token'][:7]}…"
    async with plane.store.read() as connection:
        row = (await connection.execute(select(service_tokens))).mappings().one()
    assert created["token"] not in repr(dict(row))


async def test_a_token_may_what_its_scopes_say_and_is_told_what_it_lacks(plane: Plane) -> None:
    token = await new_token(plane, scopes=["users:write", "usage:read"])
    async with with_token(plane, token["token"]) as client:
        session = (await client.get("/admin/auth/session")).json()
        assert (session["username"], session["role"], session["expires_at"]) == ("token:ci", "service", LATER)
        assert session["scopes"] == ["usage:read", "users:write"]
        await new_user(client)
        assert (await client.get("/admin/users")).status_code == 200
        assert (await client.get("/admin/usage")).status_code == 200
        refused = await client.get("/admin/audit")
        assert (refused.status_code, refused.json()["error"]["type"]) == (403, "forbidden")
        assert refused.json()["error"]["message"] == "token:ci lacks the scope audit:read"
        assert (await client.get("/openapi.json")).status_code == 403
        assert (await client.put("/admin/users")).status_code == 405
        assert (await client.get("/admin/nothing")).status_code == 404


async def test_what_a_token_does_is_audited_under_its_name(plane: Plane, admin: httpx.AsyncClient) -> None:
    token = await new_token(plane, scopes=["users:write"])
    async with with_token(plane, token["token"]) as client:
        await new_user(client)
    await admin.delete(f"/admin/tokens/{token['id']}")
    entries = (await admin.get("/admin/audit", params={"actor": "token:ci"})).json()["items"]
    assert [entry["action"] for entry in entries] == ["user.create"]
    tokens = (await admin.get("/admin/audit", params={"object_id": token["id"]})).json()["items"]
    assert [entry["action"] for entry in tokens] == ["service_token.revoke", "service_token.create"]
    assert token["token"] not in str(tokens)


@pytest.mark.parametrize(
    ("changes", "status", "field", "words"),
    [
        ({"scopes": ["users:read", "users:delete", "root"]}, 422, "scopes", "unknown: root, users:delete;"),
        ({"scopes": []}, 422, "scopes", ""),
        ({"scopes": "admin"}, 422, "scopes", ""),
        ({"expires_at": "2026-03-01T12:00:00Z"}, 422, "expires_at", "must be in the future"),
        ({"expires_at": "soon"}, 422, "expires_at", ""),
        ({"name": "a b"}, 422, "name", "must begin with a letter or digit"),
        ({"name": "x" * 65}, 422, "name", ""),
        ({"name": "taken"}, 409, "name", "'taken' already"),
    ],
)
async def test_a_token_that_cannot_be_is_refused(
    plane: Plane, admin: httpx.AsyncClient, changes: dict[str, Any], status: int, field: str, words: str
) -> None:
    await new_token(plane, "taken", scopes=["users:read"])
    wanted = {"name": "ci", "scopes": ["users:read"], "expires_at": LATER} | changes
    answer = await admin.post("/admin/tokens", json=wanted)
    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (status, field)
    assert words in error["message"]


async def test_how_long_a_token_lives_has_to_be_said(admin: httpx.AsyncClient) -> None:
    answer = await admin.post("/admin/tokens", json={"name": "ci", "scopes": ["users:read"]})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "expires_at")
    forever = await admin.post("/admin/tokens", json={"name": "ci", "scopes": ["users:read"], "expires_at": None})
    assert (forever.status_code, forever.json()["expires_at"]) == (201, None)


async def test_a_token_gives_away_no_more_than_it_has(plane: Plane) -> None:
    token = await new_token(plane, scopes=["tokens:write", "users:write"])
    async with with_token(plane, token["token"]) as client:
        for scopes in (["admin"], ["keys:read"], ["users:read", "keys:write"]):
            wanted = {"name": "child", "scopes": scopes, "expires_at": LATER}
            answer = await client.post("/admin/tokens", json=wanted)
            assert (answer.status_code, answer.json()["error"]["type"]) == (403, "forbidden"), scopes
        wanted = {"name": "child", "scopes": ["users:read"], "expires_at": LATER}
        assert (await client.post("/admin/tokens", json=wanted)).status_code == 201


async def test_a_revoked_token_is_refused_on_the_next_request_of_another_replica(plane: Plane) -> None:
    token = await new_token(plane, scopes=["users:read", "tokens:write"])
    other = build_plane(plane.store)
    async with with_token(plane, token["token"]) as here, with_token(other, token["token"]) as there:
        assert (await there.get("/admin/users")).status_code == 200
        revoked = await here.delete(f"/admin/tokens/{token['id']}")
        assert (revoked.status_code, revoked.json()["status"]) == (200, "revoked")
        assert (await there.get("/admin/users")).status_code == 401
        assert (await here.get("/admin/users")).status_code == 401
    async with with_token(plane, await plane.sign_in()) as admin:
        assert (await admin.delete(f"/admin/tokens/{token['id']}")).json()["status"] == "revoked"
        assert (await admin.get("/admin/tokens")).json()["items"] == []
        assert (await admin.delete(f"/admin/tokens/{'0' * 32}")).status_code == 404
    await new_token(plane, scopes=["users:read"])  # the name is free again


async def test_a_token_ends_on_time(plane: Plane, admin: httpx.AsyncClient) -> None:
    token = await new_token(plane, scopes=["users:read"], expires_at="2026-03-01T12:10:00Z")
    async with with_token(plane, token["token"]) as client:
        plane.clock.forward(seconds=599)
        assert (await client.get("/admin/users")).status_code == 200
        plane.clock.forward(seconds=1)
        assert (await client.get("/admin/users")).status_code == 401
    assert (await admin.get("/admin/tokens", params={"name": "ci"})).json()["items"][0]["status"] == "expired"


async def test_the_last_use_is_noted_but_not_on_each_request(plane: Plane, admin: httpx.AsyncClient) -> None:
    token = await new_token(plane, scopes=["users:read"])

    async def last_used() -> str:
        return str((await admin.get("/admin/tokens")).json()["items"][0]["last_used_at"])

    async with with_token(plane, token["token"]) as client:
        await client.get("/admin/users")
        first = await last_used()
        assert first == "2026-03-01T12:00:00Z"
        plane.clock.forward(minutes=4)
        await client.get("/admin/users")
        assert await last_used() == first
        plane.clock.forward(minutes=1)
        await client.get("/admin/users")
        assert await last_used() == "2026-03-01T12:05:00Z"


async def test_a_made_up_token_never_reaches_the_store(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> None:
        raise AssertionError("the store was asked")

    monkeypatch.setattr(plane.store, "read", asked)
    assert await plane.services.service_tokens.identify("pt_" + "0" * 49) is None
    assert await plane.services.service_tokens.identify("ak_" + "0" * 49) is None


def test_scopes_cover_what_they_say() -> None:
    assert covers({"users:write"}, "users:read")
    assert not covers({"users:read"}, "users:write")
    assert not covers({"users:write"}, "keys:read")
    assert not covers({"users:write", "users:read"}, "admin")
    assert all(covers({"admin"}, scope) for scope in ("admin", "tokens:write"))
    assert missing({"users:write"}, ["users:read", "keys:read"]) == ["keys:read"]
    assert read_only({"users:write", "usage:read"}) == {"users:read", "usage:read"}
    assert len(read_only({"admin"})) == len(NOUNS)


def test_a_token_is_in_no_representation(plane: Plane) -> None:
    from daemon.contract.tokens import ServiceTokenSecret
    from daemon.services.identity import Identity
    from daemon.services.sessions import Started

    started = Started("the secret", Identity("admin", "admin", frozenset(), None), 1)
    assert "the secret" not in repr(started) + repr(replace(started, seconds=2))
    assert ServiceTokenSecret.model_fields["token"].repr is False
