from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, insert, select

from daemon.services.ids import uuid7
from daemon.store.epochs import read_all
from daemon.store.tables import compatibility
from tests.admin.conftest import Plane
from tests.admin.test_security import _is_the_one_shape

PATH = "/admin/compatibility"
OPUS = "eu.anthropic.claude-opus-5-5"


async def learn(plane: Plane, value: str, **values: Any) -> str:
    now = plane.clock()
    row = {
        "id": uuid7(now, bytes),
        "provider": "bedrock",
        "region": "eu-west-1",
        "model": OPUS,
        "kind": "field",
        "value": value,
        "reason": "extraneous key",
        "learned_at": now,
        "expires_at": now + timedelta(minutes=20),
    } | values
    async with plane.store.write() as connection:
        await connection.execute(insert(compatibility).values(row))
    plane.clock.forward(seconds=1)
    return str(row["id"])


async def values_of(admin: httpx.AsyncClient, **query: str) -> list[str]:
    answer = await admin.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    return [item["value"] for item in answer.json()["items"]]


async def test_what_is_believed_is_listed_until_it_expires(plane: Plane, admin: httpx.AsyncClient) -> None:
    await learn(plane, "a")
    await learn(plane, "b", provider="plan")
    await learn(plane, "c", model="other", kind="thinking")
    await learn(plane, "gone", expires_at=plane.clock())
    assert await values_of(admin) == ["a", "b", "c"]
    assert await values_of(admin, provider="bedrock") == ["a", "c"]
    assert await values_of(admin, provider="bedrock", model=OPUS) == ["a"]
    plane.clock.forward(minutes=20, seconds=-4)
    assert await values_of(admin) == ["b", "c"]


async def test_pages_of_what_was_learned_hold_each_once(plane: Plane, admin: httpx.AsyncClient) -> None:
    for number in range(5):
        await learn(plane, str(number))
    first = (await admin.get(PATH, params={"limit": 3})).json()
    rest = await values_of(admin, cursor=first["next_cursor"])
    assert [item["value"] for item in first["items"]] + rest == ["0", "1", "2", "3", "4"]


async def test_one_thing_is_forgotten_by_its_id(plane: Plane, admin: httpx.AsyncClient) -> None:
    learned, _ = await learn(plane, "a"), await learn(plane, "b")
    assert (await admin.delete(f"{PATH}/{learned}")).status_code == 204
    assert (await admin.delete(f"{PATH}/{learned}")).status_code == 404
    assert await values_of(admin) == ["b"]
    assert plane.announced == ["routing"]
    [entry] = (await admin.get("/admin/audit", params={"object_id": learned})).json()["items"]
    assert (entry["action"], entry["before"]["value"]) == ("compatibility.forget", "a")


async def test_all_that_matches_is_forgotten_at_once(plane: Plane, admin: httpx.AsyncClient) -> None:
    for number in range(3):
        await learn(plane, str(number))
    await learn(plane, "other", model="other")
    assert (await admin.delete(PATH, params={"model": OPUS})).json() == {"forgotten": 3}
    assert await values_of(admin) == ["other"]
    assert (await admin.delete(PATH, params={"provider": "nobody"})).json() == {"forgotten": 0}
    assert (await admin.delete(PATH)).json() == {"forgotten": 1}
    assert plane.announced == ["routing"] * 2
    entries = (await admin.get("/admin/audit", params={"action": "compatibility.forget"})).json()["items"]
    assert [entry["before"] for entry in entries] == [{"forgotten": 1}, {"model": OPUS, "forgotten": 3}]
    async with plane.store.read() as connection:
        assert (await read_all(connection))["routing"] == 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", f"{PATH}?modle=x", 422),
        ("DELETE", f"{PATH}?model=", 422),
        ("DELETE", f"{PATH}?provider=%00", 422),
        ("DELETE", f"{PATH}/not-an-id", 404),
        ("DELETE", f"{PATH}/{UUID(int=0)}", 404),
        ("DELETE", f"{PATH}/", 404),
        ("POST", PATH, 405),
        ("GET", f"{PATH}?cursor=forged", 422),
        ("GET", f"{PATH}?limit=501", 422),
    ],
)
async def test_a_bad_path_or_query_forgets_nothing(
    plane: Plane, admin: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    await learn(plane, "a")
    answer = await admin.request(method, path)
    assert (answer.status_code, _is_the_one_shape(answer)) == (status, True), answer.text
    async with plane.store.read() as connection:
        assert await connection.scalar(select(func.count()).select_from(compatibility)) == 1
