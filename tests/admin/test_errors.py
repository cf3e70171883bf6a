from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text

from daemon.store.tables import users
from tests.admin.conftest import Plane, new_key, new_user
from tests.admin.test_security import _is_the_one_shape


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, None),
        (b'{"name":"a","name":"b"}', 400, "name"),
        (b'{"name":NaN}', 400, None),
        (b"\xff", 400, None),
        (b"[" * 100_000, 400, None),
        (b"[]", 422, None),
        (b"{}", 422, "name"),
        (b'{"name":""}', 422, "name"),
        (b'{"name":"   "}', 422, "name"),
        (b'{"name":"a\\u0000b"}', 422, "name"),
        (b'{"name":"a\\u202eb"}', 422, "name"),
        (b'{"name":"a\\ud800b"}', 422, "name"),
        (b'{"name":7}', 422, "name"),
        (b'{"name":"' + b"x" * 129 + b'"}', 422, "name"),
        (b'{"name":"a","colour":"red"}', 422, "colour"),
        (b'{"name":"a","is_active":"yes"}', 422, "is_active"),
        (b'{"name":"' + b"x" * 1_000_000 + b'"}', 413, None),
    ],
)
async def test_a_bad_body_is_refused(admin: httpx.AsyncClient, body: bytes, status: int, field: str | None) -> None:
    answer = await admin.post("/admin/users", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, _is_the_one_shape(answer)) == (status, True), answer.text
    assert answer.json()["error"]["field"] == field


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/admin/nothing", 404),
        ("GET", "/admin/users/", 404),
        ("GET", "/ADMIN/users", 404),
        ("PUT", "/admin/users", 405),
        ("GET", "/admin/users/not-an-id", 404),
        ("GET", "/admin/users/00000000-0000-0000-0000-000000000000", 404),
        ("DELETE", "/admin/access-keys/00000000-0000-0000-0000-000000000000", 404),
        ("GET", "/admin/users?limit=-1", 422),
        ("GET", "/admin/users?limit=0", 422),
        ("GET", "/admin/users?limit=1000000000", 422),
        ("GET", "/admin/users?limit=x", 422),
        ("GET", "/admin/users?cursor=forged", 422),
        ("GET", "/admin/users?cursor=%ff", 422),
        ("GET", "/admin/audit?cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk", 422),
        ("GET", "/admin/users?name=%00", 422),
        ("GET", "/admin/usage?since=2026-02-30T00:00:00Z", 422),
        ("GET", "/admin/usage?since=2026-02-01T00:00:00", 422),
        ("GET", "/admin/usage?until=2026-02-01T00:00:00Z", 422),
        ("GET", "/admin/usage?since=2026-02-02T00:00:00Z&until=2026-02-01T00:00:00Z", 422),
        ("GET", "/admin/usage?since=1926-02-02T00:00:00Z", 422),
        ("GET", "/admin/usage?since=0001-01-01T00:00:00%2B14:00", 422),
        ("GET", "/admin/usage?group_by=colour", 422),
    ],
)
async def test_a_bad_path_or_query_is_refused(admin: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await admin.request(method, path)
    assert (answer.status_code, _is_the_one_shape(answer)) == (status, True), answer.text


async def test_an_unexpected_failure_names_the_request_and_nothing_else(
    plane: Plane, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(**_: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(plane.services.users, "list_users", fail)
    answer = await admin.get("/admin/users")
    assert (answer.status_code, _is_the_one_shape(answer)) == (500, True)
    assert "secret detail" not in answer.text


async def test_a_store_that_is_away_is_a_503(
    plane: Plane, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(plane.store, "read", away)
    answer = await admin.get("/admin/users")
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "unavailable")
    assert _is_the_one_shape(answer)


async def test_a_change_that_cannot_be_audited_is_not_made(plane: Plane, admin: httpx.AsyncClient) -> None:
    async with plane.store.write() as connection:
        await connection.execute(text("ALTER TABLE audit_log RENAME TO audit_log_gone"))
    answer = await admin.post("/admin/users", json={"name": "alice"})
    assert answer.status_code >= 500
    async with plane.store.read() as connection:
        assert await connection.scalar(select(func.count()).select_from(users)) == 0
    assert plane.changes == []


async def test_html_in_a_name_is_text(admin: httpx.AsyncClient) -> None:
    user = await new_user(admin, "<script>alert(1)</script>")
    assert user["name"] == "<script>alert(1)</script>"


async def test_there_is_no_cors(admin: httpx.AsyncClient) -> None:
    answer = await admin.get("/admin/users", headers={"origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("tag", ['"7"', "garbage", '"1", "2"'])
async def test_no_change_is_made_to_another_version(admin: httpx.AsyncClient, tag: str) -> None:
    user = await new_user(admin)
    key = await new_key(admin, user["id"])
    target = {"claude_model": "claude-opus-5-5", "bedrock_model": "us.anthropic.claude-opus-5-5"}
    mapping = (await admin.post("/admin/model-mappings", json=target)).json()
    key_path, user_path = f"/admin/access-keys/{key['id']}", f"/admin/users/{user['id']}"
    for method, path, body in (
        ("PATCH", user_path, {"description": "new"}),
        ("PUT", f"{user_path}/routing-strategy", {"routing_strategy": "bedrock_only"}),
        ("PUT", f"{user_path}/budget", {"budget_usd": "5"}),
        ("PATCH", key_path, {"name": "new"}),
        ("POST", f"{key_path}/rotate", {}),
        ("DELETE", key_path, None),
        ("PUT", f"/admin/model-mappings/{mapping['id']}", {"bedrock_model": "eu.anthropic.claude-opus-5-5"}),
        ("DELETE", f"/admin/model-mappings/{mapping['id']}", None),
        ("DELETE", user_path, None),
    ):
        answer = await admin.request(method, path, json=body, headers={"if-match": tag})
        assert (answer.status_code, answer.json()["error"]["type"]) == (409, "conflict"), f"{method} {path}"
    read = await admin.get(key_path)
    assert (read.headers["etag"], read.json()["name"]) == ('"1"', "laptop")
    assert (await admin.patch(key_path, json={"name": "new"}, headers={"if-match": '"1"'})).headers["etag"] == '"2"'
    assert (await admin.delete(key_path, headers={"if-match": '"2"'})).status_code == 200
    user_tag = (await admin.get(user_path)).headers["etag"]
    assert (await admin.delete(user_path, headers={"if-match": user_tag})).status_code == 204


async def test_headers_that_ask_for_another_form_change_nothing(admin: httpx.AsyncClient) -> None:
    await new_user(admin)
    for headers in (
        {"if-none-match": "garbage"},
        {"range": "bytes=0-1"},
        {"accept": "application/xml"},
        {"accept-language": "x" * 500},
        {"if-modified-since": "yesterday"},
    ):
        answer = await admin.get("/admin/users", headers=headers)
        assert (answer.status_code, len(answer.json()["items"])) == (200, 1), headers


async def test_what_ends_twice_ends_once(admin: httpx.AsyncClient) -> None:
    user = await new_user(admin)
    key = await new_key(admin, user["id"])
    path = f"/admin/access-keys/{key['id']}"
    assert [(await admin.delete(path)).json()["status"] for _ in range(2)] == ["revoked", "revoked"]
    assert (await admin.post(f"{path}/rotate", json={})).status_code == 409
    assert [(await admin.delete(f"/admin/users/{user['id']}")).status_code for _ in range(2)] == [204, 404]
