"""Reports, records, trees of sessions and exports at the admin API."""

import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import pytest
from sqlalchemy.exc import DBAPIError

from daemon.core.periods import day_start
from daemon.core.record import Cost, Ended, UsageRecord
from daemon.core.tokens import TokenCounts
from daemon.protocol.anthropic.meter import PLAUSIBLE
from daemon.store import reports, usage
from daemon.store.engine import Store
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
    assert status["facts"]["database"] == plane.store.dialect
    prices = (await admin.get("/api/pricing/models")).json()
    assert {"plan"} <= {item["provider"] for item in prices["items"]}
    assert "/admin/users" in (await admin.get("/openapi.json")).json()["paths"]


async def _store(plane: Plane, records: list[UsageRecord]) -> None:
    async with plane.store.write() as connection:
        await usage.append(connection, records, day_of=lambda instant: day_start(instant, ZoneInfo("UTC")))


async def _get(admin: httpx.AsyncClient, path: str, **params: Any) -> dict[str, Any]:
    answer = await admin.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_cost_is_told_by_kind_of_token(plane: Plane, admin: httpx.AsyncClient) -> None:
    await _store(plane, [usage_record(cost=Cost(1_000_000_001, 2, 3, 4, 5))])
    totals = (await _get(admin, "/admin/usage"))["totals"]
    assert totals["input_cost_usd"] == "1.000000001"
    assert totals["cache_write_cost_usd"] == "0.000000007"
    assert (totals["cache_write_5m_cost_nano_usd"], totals["cache_write_1h_cost_nano_usd"]) == (3, 4)
    [entry] = (await _get(admin, "/admin/usage/records"))["items"]
    assert (entry["input_cost_nano_usd"], entry["cache_read_cost_nano_usd"]) == (1_000_000_001, 5)


async def test_days_without_usage_are_in_the_list(plane: Plane, admin: httpx.AsyncClient) -> None:
    await _fill(plane, admin)
    week = await _get(admin, "/admin/usage", since="2026-02-26", until="2026-03-02", bucket="day", group_by="user")
    assert [bucket["start"] for bucket in week["buckets"]] == [
        f"{day}T00:00:00Z" for day in ("2026-02-26", "2026-02-27", "2026-02-28", "2026-03-01")
    ]
    assert [bucket["requests"] for bucket in week["buckets"]] == [0, 0, 0, 5]
    assert [(series["name"], [point["requests"] for point in series["points"]]) for series in week["series"]] == [
        ("alice", [0, 0, 0, 3]),
        ("bob", [0, 0, 0, 2]),
    ]
    assert (week["timezone"], week["rounded"]) == ("UTC", False)


async def test_teams_are_those_of_today(plane: Plane, admin: httpx.AsyncClient) -> None:
    alice, _ = await _fill(plane, admin)
    assert (await admin.patch(f"/admin/users/{alice}", json={"team": "core"})).status_code == 200
    by_team = await _get(admin, "/admin/usage", group_by="team")
    assert {item["group"]: item["requests"] for item in by_team["items"]} == {"core": 3, "": 2}
    assert (await _get(admin, "/admin/usage", team="core"))["totals"]["requests"] == 3
    assert (await _get(admin, "/admin/usage", team="none"))["totals"]["requests"] == 0


async def test_the_largest_users_have_series_and_the_others_one_together(
    plane: Plane, admin: httpx.AsyncClient
) -> None:
    alice, _ = await _fill(plane, admin)
    top = await _get(admin, "/admin/usage/top-users", limit=1, bucket="month")
    assert [(series["group"], series["points"][0]["requests"]) for series in top["series"]] == [(alice, 3), (None, 2)]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"since": "2026-03-02", "until": "2026-03-01"}, "until"),
        ({"since": "2026-02-30"}, "since"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-03-01", "until": "2026-03-01T00:00:00+99:00"}, "until"),
        ({"since": "1926-03-01"}, "since"),
        ({"until": "2026-03-01"}, "since"),
        ({"since": "2026-01-01", "period": "day"}, "period"),
        ({"since": "2026-01-01", "bucket": "minute"}, "bucket"),
        ({"group_by": "session"}, "since"),
        ({"group_by": "session", "bucket": "day"}, "bucket"),
        ({"group_by": "day", "bucket": "hour"}, "bucket"),
        ({"bucket": "year"}, "bucket"),
    ],
)
async def test_a_range_that_is_none_names_its_field(
    admin: httpx.AsyncClient, params: dict[str, str], field: str
) -> None:
    answer = await admin.get("/admin/usage", params=params)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


async def test_a_session_is_a_tree_of_agents_and_requests(plane: Plane, admin: httpx.AsyncClient) -> None:
    agents = [
        (None, None, "main"),
        ("a", None, "subagent"),
        ("b", "a", "subagent"),
        ("b", "a", "subagent"),
        ("c", "gone", "workflow"),
        ("x", "y", None),
        ("y", "x", None),
    ]
    records = [
        usage_record(
            request_id=f"req_{number}",
            session_id="s/1",
            agent_id=agent,
            parent_agent_id=parent,
            request_class=kind,
            prompt_id="p1",
            cost=Cost(10**number),
            admitted_at=NOON + timedelta(seconds=number),
        )
        for number, (agent, parent, kind) in enumerate(agents)
    ]
    await _store(plane, [*records, usage_record(request_id="req_other", session_id="s2")])
    for path in ("s/1", "nothing"):
        assert (await admin.get(f"/admin/usage/sessions/{path}")).status_code == 404
    await _store(plane, [replace(record, session_id="s1", request_id=f"{record.request_id}s") for record in records])
    tree = await _get(admin, "/admin/usage/sessions/s1")
    root = tree["root"]
    assert (root["totals"]["cost_nano_usd"], root["own"]["cost_nano_usd"]) == (1_111_111, 1)
    assert [agent["agent_id"] for agent in root["agents"]] == ["a", "c", "x", "y"]
    [inner] = root["agents"][0]["agents"]
    assert (inner["agent_id"], inner["own"]["cost_nano_usd"], root["agents"][0]["totals"]["requests"]) == ("b", 1100, 3)
    assert [(r["request_id"], r["request_class"], r["prompt_id"]) for r in inner["requests"]] == [
        ("req_2s", "subagent", "p1"),
        ("req_3s", "subagent", "p1"),
    ]
    assert (tree["truncated"], tree["user_ids"]) == (False, [])


async def test_the_prompt_cache_in_figures(plane: Plane, admin: httpx.AsyncClient) -> None:
    tokens = TokenCounts(input=100, output=9, cache_write_5m=100, cache_read=600)
    warm = usage_record(request_id="req_1", session_id="warm", tokens=tokens, cost=Cost(300, 1, 375, 0, 180))
    cold = usage_record(
        request_id="req_2", session_id="cold", tokens=TokenCounts(input=100), cost=Cost(300), model_served="other"
    )
    await _store(plane, [warm, cold])
    models = await _get(admin, "/admin/usage/cache")
    figures = [(item["group"], item["hit_ratio"], item["misses_cost_nano_usd"]) for item in models["items"]]
    assert figures == [("claude-opus-5-5", "0.7500", 675 - 60), ("other", "0.0000", 270)]
    sessions = await _get(admin, "/admin/usage/cache", group_by="session", since="2026-02-28")
    assert [item["group"] for item in sessions["items"]] == ["warm", "cold"]
    assert sessions["totals"]["hit_ratio"] == "0.6667"
    assert (await _get(admin, "/admin/usage/cache", since="2025-01-01", until="2025-01-02"))["totals"][
        "hit_ratio"
    ] is None


async def test_an_export_streams_everything_and_goes_on_after_a_cursor(plane: Plane, admin: httpx.AsyncClient) -> None:
    names = [f"req_{number:04}" for number in range(1201)]
    for start in range(0, len(names), 100):
        await _store(plane, [usage_record(request_id=name) for name in names[start : start + 100]])
    answer = await admin.get("/admin/usage/export")
    assert answer.headers["content-type"] == "application/jsonl"
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["request_id"] for row in rows] == names
    [entry] = (await _get(admin, "/admin/usage/records", limit=1, request_id=names[700]))["items"]
    assert rows[700] == entry
    rest = (await admin.get("/admin/usage/export", params={"cursor": rows[700]["cursor"]})).text.splitlines()
    assert [json.loads(line)["request_id"] for line in rest] == names[701:]
    assert (await admin.get("/admin/usage/export", params={"cursor": rows[-1]["cursor"]})).text == ""
    forged = await admin.get("/admin/usage/export", params={"cursor": "forged"})
    assert (forged.status_code, forged.json()["error"]["field"]) == (422, "cursor")


async def test_an_export_can_be_narrowed(plane: Plane, admin: httpx.AsyncClient) -> None:
    _, bob = await _fill(plane, admin)
    for params, count in (
        ({"user_id": bob}, 2),
        ({"since": "2026-03-01T11:57:30Z", "until": "2026-03-01T11:59:30Z"}, 2),
        ({"model": "none"}, 0),
    ):
        assert len((await admin.get("/admin/usage/export", params=params)).text.splitlines()) == count
    reversed_range = await admin.get("/admin/usage/export", params={"since": "2026-03-02", "until": "2026-03-01"})
    assert reversed_range.status_code == 422


async def test_no_cell_of_a_csv_export_is_a_formula(plane: Plane, admin: httpx.AsyncClient) -> None:
    evil = ["=cmd|' /C calc'!A0", "+1", "-1", "@sum", "a\nb", 'q"q', "\tx"]
    await _store(plane, [usage_record(request_id=f"req_{n}", session_id=text) for n, text in enumerate(evil)])
    answer = await admin.get("/admin/usage/export", params={"format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["session_id"] for row in rows] == [f"'{t}" if t[0] in "=+-@\t" else t for t in evil]
    again = await admin.get("/admin/usage/export", params={"format": "csv", "cursor": rows[0]["cursor"]})
    assert again.text.startswith("req_1,")


async def test_an_absurd_count_is_summed_or_refused_whole(plane: Plane, admin: httpx.AsyncClient) -> None:
    most = TokenCounts(*[PLAUSIBLE] * 6)  # what a provider says at most that is believed
    costs = Cost(*[PLAUSIBLE * 100_000] * 5)
    await _store(plane, [usage_record(request_id=f"req_{n}", tokens=most, cost=costs) for n in range(1000)])
    for tokens, cost in ((replace(most, input=2**63), Cost(1)), (most, Cost(2**63))):
        with pytest.raises((DBAPIError, OverflowError)):  # the ledger's writer sets such a record aside
            await _store(plane, [usage_record(request_id="req_absurd", tokens=tokens, cost=cost)])
    summary = await _get(admin, "/admin/usage", group_by="day", since="2026-03-01", until="2026-03-02")
    assert summary["totals"]["input_tokens"] == 1000 * PLAUSIBLE
    assert summary["totals"]["cost_nano_usd"] == summary["items"][0]["cost_nano_usd"] == 1000 * costs.total_nano
    assert summary["totals"]["cost_usd"] == "500000000.000000000"


async def test_a_report_that_takes_too_long_is_refused_and_names_the_range(
    admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def slow(store: Store) -> AsyncIterator[None]:
        raise reports.TooSlow
        yield

    monkeypatch.setattr(reports, "reading", slow)
    for path in ("", "/top-users", "/cache", "/records", "/sessions/s1"):
        answer = await admin.get(f"/admin/usage{path}")
        assert (answer.status_code, answer.json()["error"]["type"]) == (422, "invalid"), path
