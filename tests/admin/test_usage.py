from datetime import timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx

from daemon.core.periods import day_start
from daemon.core.record import Cost, Ended
from daemon.store import usage
from tests.admin.conftest import Plane, new_key, new_user
from tests.factories import NOON, usage_record


async def _fill(plane: Plane, admin: httpx.AsyncClient) -> tuple[str, str]:
    alice, bob = await new_user(admin), await new_user(admin, "bob")
    keys = [(user["id"], (await new_key(admin, user["id"]))["id"]) for user in (alice, bob)]
    records = [
        usage_record(
            request_id=f"req_{number}",
            user_id=UUID(keys[number % 2][0]),
            access_key_id=UUID(keys[number % 2][1]),
            cost=Cost(input_nano=100 + number),
            ended=Ended.ERROR if number == 3 else Ended.FINISHED,
            admitted_at=NOON - timedelta(minutes=number),
        )
        for number in range(5)
    ]
    zone = ZoneInfo("UTC")
    async with plane.store.write() as connection:
        await usage.append(connection, records, day_of=lambda instant: day_start(instant, zone))
    return str(alice["id"]), str(bob["id"])


async def test_totals_are_the_sum_of_their_parts(plane: Plane, admin: httpx.AsyncClient) -> None:
    alice, bob = await _fill(plane, admin)
    for group_by in ("user", "key", "model", "provider", "day"):
        summary = (await admin.get("/admin/usage", params={"group_by": group_by})).json()
        assert summary["totals"]["requests"] == 5
        assert summary["totals"]["cost_nano_usd"] == 510
        assert summary["totals"]["cost_usd"] == "0.000000510"
        assert sum(item["cost_nano_usd"] for item in summary["items"]) == 510
    by_user = (await admin.get("/admin/usage", params={"group_by": "user"})).json()["items"]
    assert [(item["group"], item["name"]) for item in by_user] == [(alice, "alice"), (bob, "bob")]
    only = (await admin.get("/admin/usage", params={"user_id": bob})).json()
    assert (only["totals"]["requests"], only["totals"]["errors"], only["items"]) == (2, 1, [])


async def test_the_largest_users_come_first(plane: Plane, admin: httpx.AsyncClient) -> None:
    alice, bob = await _fill(plane, admin)
    top = (await admin.get("/admin/usage/top-users", params={"by": "tokens", "period": "month"})).json()
    assert [item["group"] for item in top["items"]] == [alice, bob]
    one = (await admin.get("/admin/usage/top-users", params={"limit": 1})).json()
    assert [item["group"] for item in one["items"]] == [alice]


async def test_records_are_paged_and_filtered(plane: Plane, admin: httpx.AsyncClient) -> None:
    await _fill(plane, admin)
    seen, params = [], {"limit": "2"}
    while True:
        page = (await admin.get("/admin/usage/records", params=params)).json()
        seen += [item["request_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert sorted(seen) == [f"req_{number}" for number in range(5)]
    errors = (await admin.get("/admin/usage/records", params={"errors": "true"})).json()["items"]
    assert [item["request_id"] for item in errors] == ["req_3"]


async def test_status_prices_and_description_are_served(plane: Plane, admin: httpx.AsyncClient) -> None:
    status = (await admin.get("/admin/system/status")).json()
    assert (status["version"], status["database_ok"]) == ("1.2.3", True)
    assert status["facts"] == {"database": plane.store.dialect}
    prices = (await admin.get("/api/pricing/models")).json()
    assert {"plan"} <= {item["provider"] for item in prices["items"]}
    assert "/admin/users" in (await admin.get("/openapi.json")).json()["paths"]
