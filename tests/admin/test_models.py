import asyncio
import base64
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import insert

from daemon.services.ids import uuid7
from daemon.services.models import MOST_MAPPINGS
from daemon.store.epochs import read_all
from daemon.store.tables import bedrock_keys, compatibility, model_mappings
from tests.admin.conftest import ENVIRONMENT, Plane, new_key, new_user
from tests.admin.test_security import _is_the_one_shape

PATH = "/admin/model-mappings"
EU, US = "eu.anthropic.claude-opus-5-5", "us.anthropic.claude-opus-5-5"
ARN = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc123"


async def new_mapping(admin: httpx.AsyncClient, model: str = "claude-opus-5-5", **fields: Any) -> dict[str, Any]:
    answer = await admin.post(PATH, json={"claude_model": model, "bedrock_model": EU} | fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def resolved(admin: httpx.AsyncClient, model: str, **query: str) -> dict[str, Any]:
    answer = await admin.get("/admin/models/resolve", params={"model": model} | query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def register_bedrock_key(plane: Plane, key_id: str, **values: Any) -> str:
    row = {
        "id": uuid7(plane.clock(), bytes),
        "access_key_id": UUID(key_id),
        "auth_kind": "api_key",
        "region": "ap-northeast-1",
        "options": {},
        "sealed_secret": b"sealed",
        "fingerprint": "f",
        "created_at": plane.clock(),
        "updated_at": plane.clock(),
    }
    async with plane.store.write() as connection:
        await connection.execute(insert(bedrock_keys).values(row | values))
    return str(row["id"])


async def test_a_mapping_is_created_changed_and_deleted(plane: Plane, admin: httpx.AsyncClient) -> None:
    created = await admin.post(PATH, json={"claude_model": "claude-opus-5-5[1m]", "bedrock_model": EU})
    mapping = created.json()
    assert (created.status_code, created.headers["etag"], mapping["result"]) == (201, '"1"', "created")
    assert (mapping["claude_model"], mapping["source"], mapping["effective"]) == ("claude-opus-5-5", "database", True)
    assert (mapping["route"], mapping["price_known"]) == ("messages", True)
    assert await plane.services.models.mappings() == {"claude-opus-5-5": EU}

    path = f"{PATH}/{mapping['id']}"
    changed = await admin.put(path, json={"bedrock_model": US, "description": "near"}, headers={"if-match": '"1"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert (changed.json()["bedrock_model"], changed.json()["description"]) == (US, "near")
    same = await admin.put(path, json={"bedrock_model": US})
    assert (same.json()["version"], same.json()["description"]) == (2, "near")
    assert (await admin.put(path, json={"bedrock_model": US, "description": None})).json()["description"] is None

    assert (await admin.delete(path)).status_code == 204
    assert (await admin.delete(path)).status_code == 404
    assert (await admin.put(path, json={"bedrock_model": US})).status_code == 404
    assert await plane.services.models.mappings() == {}
    assert plane.announced == ["models"] * 4
    assert (await new_mapping(admin))["id"] != mapping["id"]


async def test_every_change_of_a_mapping_has_its_audit_row_and_counts_the_epoch_up(
    plane: Plane, admin: httpx.AsyncClient
) -> None:
    mapping = await new_mapping(admin)
    await admin.put(f"{PATH}/{mapping['id']}", json={"bedrock_model": US})
    await admin.delete(f"{PATH}/{mapping['id']}")
    entries = (await admin.get("/admin/audit", params={"object_id": mapping["id"]})).json()["items"]
    assert [entry["action"] for entry in entries] == [f"model_mapping.{v}" for v in ("delete", "update", "create")]
    assert (entries[1]["before"], entries[1]["after"]) == ({"bedrock_model": EU}, {"bedrock_model": US})
    assert entries[0]["before"] == {"claude_model": "claude-opus-5-5", "bedrock_model": US}
    async with plane.store.read() as connection:
        assert (await read_all(connection))["models"] == 3


async def test_of_many_mappings_of_one_model_one_succeeds(admin: httpx.AsyncClient) -> None:
    body = {"claude_model": "claude-opus-5-5", "bedrock_model": EU}
    answers = await asyncio.gather(*(admin.post(PATH, json=body) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
    refused = next(answer for answer in answers if answer.status_code == 409).json()["error"]
    assert (refused["type"], refused["field"]) == ("conflict", "claude_model")


async def test_a_stale_version_of_a_mapping_is_a_conflict(plane: Plane, admin: httpx.AsyncClient) -> None:
    mapping = await new_mapping(admin)
    path = f"{PATH}/{mapping['id']}"
    await admin.put(path, json={"bedrock_model": US})
    for tag in ('"1"', "garbage"):
        stale = await admin.put(path, json={"bedrock_model": ARN}, headers={"if-match": tag})
        assert (stale.status_code, stale.json()["error"]["type"]) == (409, "conflict")
    assert await plane.services.models.mappings() == {"claude-opus-5-5": US}


@pytest.mark.parametrize(
    "target",
    [
        "",
        "../",
        "claude-opus-5-5",
        "us.anthropic.claude-opus-5-5/../../x",
        f"{EU}\n",
        f" {EU}",
        "arn:aws:s3:::bucket",
        "arn:aws:lambda:eu-west-1:123456789012:function:x",
        "arn:aws:bedrock:eu-west-1:123456789012:guardrail/x",
        "x" * 10_240,
    ],
)
async def test_what_is_no_bedrock_id_is_refused_as_a_target(
    plane: Plane, admin: httpx.AsyncClient, target: str
) -> None:
    mapping = await new_mapping(admin)
    created = await admin.post(PATH, json={"claude_model": "claude-x", "bedrock_model": target})
    changed = await admin.put(f"{PATH}/{mapping['id']}", json={"bedrock_model": target})
    for answer in (created, changed):
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "bedrock_model")
        assert _is_the_one_shape(answer)
    assert await plane.services.models.mappings() == {"claude-opus-5-5": EU}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"bedrock_model": EU}, "claude_model"),
        ({"claude_model": "", "bedrock_model": EU}, "claude_model"),
        ({"claude_model": "[1m]", "bedrock_model": EU}, "claude_model"),
        ({"claude_model": "a b", "bedrock_model": EU}, "claude_model"),
        ({"claude_model": "a\nb", "bedrock_model": EU}, "claude_model"),
        ({"claude_model": "clаude", "bedrock_model": EU}, "claude_model"),
        ({"claude_model": "x" * 257, "bedrock_model": EU}, "claude_model"),
        ({"claude_model": "x" * 10_240, "bedrock_model": EU}, "claude_model"),
        ({"claude_model": 7, "bedrock_model": EU}, "claude_model"),
        ({"claude_model": "a", "bedrock_model": None}, "bedrock_model"),
        ({"claude_model": "a", "bedrock_model": [EU]}, "bedrock_model"),
        ({"claude_model": "a", "bedrock_model": EU, "description": "x" * 513}, "description"),
        ({"claude_model": "a", "bedrock_model": EU, "colour": "red"}, "colour"),
    ],
)
async def test_a_bad_mapping_is_refused_and_the_field_named(
    admin: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    answer = await admin.post(PATH, json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field), answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", f"{PATH}/not-an-id", 404),
        ("DELETE", f"{PATH}/not-an-id", 404),
        ("PUT", f"{PATH}/{UUID(int=0)}", 404),
        ("DELETE", f"{PATH}/{UUID(int=0)}", 404),
        ("GET", f"{PATH}/{UUID(int=0)}", 405),
        ("GET", f"{PATH}?cursor=forged", 422),
        ("GET", f"{PATH}?limit=0", 422),
        ("GET", f"{PATH}?source=moon", 422),
        ("GET", f"{PATH}?claude_model=", 422),
        ("GET", "/admin/models/resolve", 422),
        ("GET", "/admin/models/resolve?model=", 422),
        ("GET", "/admin/models/resolve?model=%00", 422),
        ("GET", f"/admin/models/resolve?model={'x' * 257}", 422),
        ("GET", "/admin/models/resolve?model=a&region=evil.example/%23", 422),
        ("GET", "/admin/models/resolve?model=a&profile=moon", 422),
        ("GET", "/admin/models/resolve?model=a&access_key_id=x", 422),
        ("GET", f"/admin/models/resolve?model=a&access_key_id={UUID(int=0)}", 404),
        ("GET", f"/admin/models/resolve?model=a&user_id={UUID(int=0)}", 404),
    ],
)
async def test_a_bad_path_or_query_about_models_is_refused(
    admin: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await admin.request(method, path, json={"bedrock_model": EU} if method == "PUT" else None)
    assert (answer.status_code, _is_the_one_shape(answer)) == (status, True), answer.text


async def test_there_is_a_most_of_mappings(plane: Plane, admin: httpx.AsyncClient) -> None:
    now = plane.clock()
    rows = [
        {"id": uuid4(), "claude_model": f"m{n}", "bedrock_model": EU, "created_at": now, "updated_at": now}
        for n in range(MOST_MAPPINGS)
    ]
    async with plane.store.write() as connection:
        await connection.execute(insert(model_mappings), rows)
    refused = await admin.post(PATH, json={"claude_model": "one-more", "bedrock_model": EU})
    assert (refused.status_code, "1000 mappings" in refused.json()["error"]["message"]) == (422, True)
    await admin.delete(f"{PATH}/{rows[0]['id']}")
    await new_mapping(admin, "one-more")


async def test_the_list_merges_the_layers_and_says_which_is_effective(admin: httpx.AsyncClient) -> None:
    await new_mapping(admin)
    items = (await admin.get(PATH, params={"limit": 500})).json()["items"]
    assert [item["source"] for item in items[:2]] == ["database", "environment"]
    assert {item["source"] for item in items[2:]} == {"packaged"}
    by = {(item["claude_model"], item["source"]): item for item in items}
    assert by["claude-opus-5-5", "database"]["effective"]
    assert not by["claude-opus-5-5", "packaged"]["effective"]
    assert by["claude-opus-5-5", "packaged"]["id"] is None
    [(model, target)] = ENVIRONMENT.items()
    assert (by[model, "environment"]["bedrock_model"], by[model, "environment"]["effective"]) == (target, True)
    assert not by["claude-haiku-4-5-20251001", "packaged"]["effective"]
    assert by["claude-sonnet-4-5-20250929", "packaged"]["effective"]
    assert by["claude-sonnet-4-5-20250929", "packaged"]["route"] == "invoke"


async def test_pages_of_mappings_hold_each_once_across_the_layers(plane: Plane, admin: httpx.AsyncClient) -> None:
    for number in range(4):
        await new_mapping(admin, f"model-{number}")
        plane.clock.forward(seconds=1)
    whole = (await admin.get(PATH, params={"limit": 500})).json()["items"]
    seen: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = (await admin.get(PATH, params={"limit": 3} | ({"cursor": cursor} if cursor else {}))).json()
        seen += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == whole
    assert [item["claude_model"] for item in seen[:4]] == [f"model-{number}" for number in range(4)]
    found = await admin.get(PATH, params={"claude_model": "model-2[1m]", "source": "database"})
    assert [item["claude_model"] for item in found.json()["items"]] == ["model-2"]
    beyond = base64.urlsafe_b64encode(str(UUID(int=2**128 - 1)).encode()).decode()
    assert (await admin.get(PATH, params={"cursor": beyond.rstrip("=")})).json()["items"] == []


async def test_a_model_is_explained_without_a_call(admin: httpx.AsyncClient) -> None:
    packaged = await resolved(admin, "claude-opus-5-5[1m]")
    assert (packaged["mapped"], packaged["source"], packaged["route"]) == (True, "packaged", "messages")
    assert (packaged["region"], packaged["region_source"], packaged["providers"]) == ("eu-west-1", "default", [])
    assert (packaged["price_known"], packaged["price_model"]) == (True, "claude-opus-5-5")
    await new_mapping(admin, "claude-opus-5-5", bedrock_model=EU)
    own = await resolved(admin, "claude-opus-5-5")
    assert (own["source"], own["bedrock_model"], own["price_region"]) == ("database", EU, "eu")
    assert (await resolved(admin, "claude-haiku-4-5"))["source"] == "environment"

    await new_mapping(admin, "house", bedrock_model=ARN)
    arn = await resolved(admin, "house")
    assert (arn["bedrock_model"], arn["route"], arn["price_known"]) == (ARN, "invoke", False)
    unmapped = await resolved(admin, "claude-nobody-9")
    assert (unmapped["mapped"], unmapped["bedrock_model"]) == (False, None)
    assert "proxyctl models map claude-nobody-9" in unmapped["reason"]


async def test_a_key_brings_its_region_profile_route_and_strategy(plane: Plane, admin: httpx.AsyncClient) -> None:
    user = await new_user(admin, routing_strategy="bedrock_first")
    key, other = await new_key(admin, user["id"]), await new_key(admin, user["id"], "other")
    await register_bedrock_key(plane, key["id"], options={"profile": "jp"}, route="invoke")

    found = await resolved(admin, "claude-opus-5-5", access_key_id=key["id"])
    assert (found["region"], found["region_source"], found["profile"]) == ("ap-northeast-1", "bedrock_key", "jp")
    assert (found["bedrock_model"], found["route"]) == ("jp.anthropic.claude-opus-5-5", "invoke")
    assert (found["routing_strategy"], found["providers"]) == ("bedrock_first", ["bedrock", "plan"])
    assert (found["user_name"], found["access_key_name"], found["has_bedrock_key"]) == ("alice", "laptop", True)

    asked = await resolved(admin, "claude-opus-5-5", access_key_id=key["id"], region="eu-west-1", profile="eu")
    assert (asked["region"], asked["region_source"], asked["bedrock_model"]) == ("eu-west-1", "query", EU)
    bare = await resolved(admin, "claude-opus-5-5", access_key_id=other["id"])
    assert (bare["has_bedrock_key"], bare["region_source"]) == (False, "default")
    by_user = await resolved(admin, "claude-opus-5-5", user_id=user["id"])
    assert (by_user["providers"], by_user["access_key_id"]) == (["bedrock", "plan"], None)

    stranger = await new_user(admin, "bob")
    query = {"model": "a", "access_key_id": key["id"], "user_id": stranger["id"]}
    refused = await admin.get("/admin/models/resolve", params=query)
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "access_key_id")
    await admin.delete(f"/admin/access-keys/{key['id']}")
    assert (await admin.get("/admin/models/resolve", params=query)).status_code == 404


async def test_what_was_learned_of_profiles_and_routes_counts_until_it_expires(
    plane: Plane, admin: httpx.AsyncClient
) -> None:
    first = await resolved(admin, "claude-opus-5-5")
    second = first["alternatives"][0]
    common = {"provider": "bedrock", "region": "eu-west-1", "reason": "r", "learned_at": plane.clock()}
    common["expires_at"] = plane.clock() + timedelta(seconds=60)
    taught = [
        {"id": uuid4(), "model": first["bedrock_model"], "kind": "profile", "value": first["bedrock_model"]},
        {"id": uuid4(), "model": second, "kind": "route", "value": "invoke"},
    ]
    async with plane.store.write() as connection:
        await connection.execute(insert(compatibility), [common | row for row in taught])
    found = await resolved(admin, "claude-opus-5-5")
    assert (first["route"], found["bedrock_model"], found["route"]) == ("messages", second, "invoke")
    assert await resolved(admin, "claude-opus-5-5", region="eu-west-2") == first | {
        "region": "eu-west-2",
        "region_source": "query",
    }
    plane.clock.forward(seconds=60)
    assert await resolved(admin, "claude-opus-5-5") == first
