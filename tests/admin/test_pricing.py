"""Prices through the admin API: list, reload, refuse, reprice; on both stores."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import pytest
from sqlalchemy import func, insert, select, update

from daemon.core.periods import day_start
from daemon.core.pricing import PriceSheet, price
from daemon.core.tokens import TokenCounts
from daemon.services import repricing
from daemon.services.pricing import Layer
from daemon.store import usage
from daemon.store.prices import active_sheet
from daemon.store.tables import budget_counters, price_sheets, token_usage, usage_aggregates
from tests.admin.conftest import Plane, build_plane, new_key, new_user
from tests.admin.test_security import _is_the_one_shape
from tests.factories import NOON, usage_record

UTC_ZONE = ZoneInfo("UTC")
MODELS, RELOAD, REPRICE = "/api/pricing/models", "/api/pricing/reload", "/admin/pricing/reprice"
OPUS = {
    "input_price_per_million": "5",
    "output_price_per_million": "30",
    "cache_write_price_per_million": "6",
    "cache_read_price_per_million": "0.4",
    "cache_write_1h_price_per_million": "10",
}
SHEET = {"plan": {"global": {"claude-opus-5-5": OPUS}}}


def doubled(model: str = "claude-opus-5-5", **more: object) -> dict[str, Any]:
    return {"plan": {"global": {model: OPUS | more}}}


async def reload(admin: httpx.AsyncClient, status: int = 200, **body: object) -> dict[str, Any]:
    answer = await admin.post(RELOAD, json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


async def prices(admin: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    answer = await admin.get(MODELS, params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


async def fill(plane: Plane, admin: httpx.AsyncClient, number: int, **fields: Any) -> tuple[UUID, UUID]:
    """Rows of one user, a minute apart, priced with the sheet in use."""
    user = await new_user(admin)
    ids = UUID(user["id"]), UUID((await new_key(admin, user["id"]))["id"])
    await append(plane, number, ids, **fields)
    return ids


async def append(plane: Plane, number: int, ids: tuple[UUID, UUID], prefix: str = "req", **fields: Any) -> None:
    tokens = TokenCounts(input=1000, output=100, cache_write_5m=50, cache_write_1h=20, cache_read=3)
    common: dict[str, Any] = {"provider": "plan", "model_served": "claude-opus-5-5", "tokens": tokens} | fields
    records = []
    for n in range(number):
        admitted = common.get("admitted_at", NOON) - timedelta(minutes=n)
        sheet: PriceSheet = plane.services.pricing.sheet.on(admitted.date())
        priced = price(common["tokens"], sheet=sheet, provider=common["provider"], model=common["model_served"])
        money = {"cost": priced.cost, "price": priced.snapshot, "estimated": priced.estimated}
        own = {"request_id": f"{prefix}_{n}", "user_id": ids[0], "access_key_id": ids[1], "admitted_at": admitted}
        records.append(usage_record(**(money | common | own)))
    async with plane.store.write() as connection:
        await usage.append(
            connection,
            records,
            day_of=lambda instant: day_start(instant, UTC_ZONE),
            counts=lambda provider: provider == "bedrock",
        )


async def books(plane: Plane) -> tuple[int, int, int]:
    """Nano-dollars of the ledger, the hours and the days."""
    costs = usage_aggregates.c.cost_nano_usd
    async with plane.store.read() as connection:
        ledger = await connection.scalar(select(func.sum(token_usage.c.cost_nano_usd)))
        hours, days = [
            await connection.scalar(select(func.sum(costs)).where(usage_aggregates.c.bucket == bucket))
            for bucket in ("hour", "day")
        ]
    return int(ledger or 0), int(hours or 0), int(days or 0)


async def reprice(admin: httpx.AsyncClient, **body: object) -> dict[str, Any]:
    span = {"since": "2026-02-01T00:00:00Z", "until": "2026-04-01T00:00:00Z"}
    answer = await admin.post(REPRICE, json=span | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_prices_are_listed_with_tiers_and_filters(admin: httpx.AsyncClient) -> None:
    assert len(await prices(admin)) > 100
    [haiku] = await prices(admin, provider="bedrock", region="eu", model="eu.anthropic.claude-haiku-5-5")
    assert (haiku["model"], haiku["input_price_per_million"], haiku["source"]) == (
        "claude-haiku-5-5",
        "0.11",
        "packaged",
    )
    assert haiku["long_context"]["above_prompt_tokens"] == 100_000
    assert haiku["long_context"]["cache_write_1h_price_per_million"] == "1.1"
    assert (haiku["fast"], haiku["upcoming"], haiku["unconfirmed"]) == (None, False, False)
    [opus] = await prices(admin, provider="plan", model="claude-opus-5-5[1m]")
    assert (opus["fast"]["input_price_per_million"], opus["inference_geo"]) == ("8", {"us": "1.1"})
    assert {price["unconfirmed"] for price in await prices(admin, provider="bedrock", model="claude-fable-5-2")} == {
        True
    }
    assert await prices(admin, model="claude-nobody") == []
    assert (await admin.get(MODELS, params={"provider": "moon"})).status_code == 422


async def test_nobody_loads_prices_without_a_session(plane: Plane) -> None:
    async with plane.anonymous() as client:
        for method, path in (("GET", MODELS), ("POST", RELOAD), ("POST", REPRICE)):
            assert (await client.request(method, path, json={})).status_code == 401


@pytest.mark.parametrize("as_text", [False, True])
async def test_an_uploaded_sheet_is_in_force_at_once_and_kept(
    plane: Plane, admin: httpx.AsyncClient, as_text: bool
) -> None:
    before = plane.services.pricing.current().sheet_id
    answer = await reload(admin, sheet=("\ufeff" if as_text else "") + json.dumps(SHEET) if as_text else SHEET)
    assert (answer["result"], answer["added"], answer["changed"], answer["removed"]) == ("reloaded", 0, 1, 0)
    assert (answer["previous_sheet_id"], answer["sheet_id"]) == (before, plane.services.pricing.current().sheet_id)
    [change] = answer["items"]
    assert (change["model"], change["old"]["output"], change["new"]["output"]) == ("claude-opus-5-5", "20", "30")
    [opus] = await prices(admin, provider="plan", model="claude-opus-5-5")
    assert (opus["output_price_per_million"], opus["source"]) == ("30", "uploaded")
    [entry] = (await admin.get("/admin/audit", params={"action": "pricing.reload"})).json()["items"]
    assert (entry["object_id"], entry["after"]["changed"], entry["after"]["source"]) == (
        answer["sheet_id"],
        1,
        "uploaded",
    )

    restarted = build_plane(plane.store)
    await restarted.services.pricing.start()
    assert restarted.services.pricing.sheet.sheet_id == answer["sheet_id"]
    again = await reload(admin, sheet=json.dumps(SHEET))
    assert (again["result"], again["items"]) == ("unchanged", [])
    async with plane.store.read() as connection:
        active = select(func.count()).select_from(price_sheets).where(price_sheets.c.is_active)
        assert await connection.scalar(active) == 1


async def test_a_reload_without_a_sheet_reads_what_is_configured_and_puts_the_uploaded_one_away(
    plane: Plane, admin: httpx.AsyncClient
) -> None:
    await reload(admin, sheet=SHEET)
    plane.layers.append(
        Layer("file", "PROXY_PRICING_FILE", json.dumps(doubled(output_price_per_million="21")).encode())
    )
    over = json.dumps({"global": {"claude-opus-5-5": OPUS}}).encode()
    plane.layers.append(Layer("environment", "PROXY_MODEL_PRICING", over))
    answer = await admin.post(RELOAD)
    assert (answer.status_code, answer.json()["changed"]) == (200, 2)
    assert {(p["provider"], p["region"], p["source"]) for p in await prices(admin) if p["source"] != "packaged"} == {
        ("plan", "global", "file"),
        ("bedrock", "global", "environment"),
    }
    async with plane.store.read() as connection:
        assert await active_sheet(connection) is None


BAD: list[tuple[object, str]] = [
    (json.dumps(doubled(input_price_per_million="-1"), indent=1), "line 5, column 32: claude-opus-5-5, plan, global"),
    ('{"plan": {,}}', "line 1, column 11"),
    (doubled(output_price_per_million="0.00002"), "more than 20 times away"),
    (doubled(output_price_per_million=1e-9 / 3), "more than nine decimals"),
    ({"plan": {"global": {"claude-\ud800": OPUS}}}, "expected the name of a model"),
    ('{"plan": {"\ud800": {}}}', "is not UTF-8"),
    ({"format": "proxyctl/models/v1", "models": [{"id": "x", "prices": {"moon": {}}}]}, "unknown provider"),
]


@pytest.mark.parametrize(("sheet", "reason"), BAD)
async def test_a_bad_sheet_is_refused_with_the_reason_and_nothing_is_lost(
    plane: Plane, admin: httpx.AsyncClient, sheet: object, reason: str
) -> None:
    kept = await reload(admin, sheet=SHEET)
    body = json.dumps({"sheet": sheet}).encode()
    answer = await admin.post(RELOAD, content=body, headers={"content-type": "application/json"})
    _is_the_one_shape(answer)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "sheet")
    assert reason in answer.json()["error"]["message"]
    assert plane.services.pricing.sheet.sheet_id == kept["sheet_id"]
    async with plane.store.read() as connection:
        assert await active_sheet(connection) == json.dumps(SHEET)
    assert len((await admin.get("/admin/audit", params={"action": "pricing.reload"})).json()["items"]) == 1


async def test_a_bad_configured_sheet_is_refused_by_its_name_and_the_old_prices_stay(
    plane: Plane, admin: httpx.AsyncClient
) -> None:
    plane.layers.append(Layer("file", "PROXY_PRICING_FILE prices.json", b'{\n "plan": 3}'))
    error = (await reload(admin, status=422))["error"]
    assert error["message"] == "PROXY_PRICING_FILE prices.json: line 2, column 10: plan: expected an object"
    assert len(await prices(admin)) > 100
    await plane.services.pricing.follow()
    assert len(await prices(admin)) > 100
    assert (await reload(admin, status=422, force=True))["error"]["field"] == "force"


async def test_force_takes_a_price_far_from_the_packaged_one(admin: httpx.AsyncClient) -> None:
    far = doubled(output_price_per_million="900")
    await reload(admin, status=422, sheet=far)
    assert (await reload(admin, sheet=far, force=True))["changed"] == 1


async def test_a_dry_run_answers_with_the_difference_and_changes_nothing(
    plane: Plane, admin: httpx.AsyncClient
) -> None:
    sheet = plane.services.pricing.sheet
    answer = await reload(admin, sheet=doubled("claude-new-9"), dry_run=True)
    assert (answer["result"], answer["added"], answer["items"][0]["model"]) == ("dry_run", 1, "claude-new-9")
    assert plane.services.pricing.sheet is sheet
    async with plane.store.read() as connection:
        assert await active_sheet(connection) is None


async def test_a_price_that_is_to_come_is_shown_and_holds_from_its_day(plane: Plane, admin: httpx.AsyncClient) -> None:
    await reload(admin, sheet=doubled(effective_date="2026-03-03"))

    async def shown() -> list[tuple[str, bool]]:
        found = await prices(admin, provider="plan", model="claude-opus-5-5")
        return [(entry["output_price_per_million"], entry["upcoming"]) for entry in found]

    assert await shown() == [("20", False), ("30", True)]
    plane.clock.forward(days=2)
    token = await plane.sign_in()
    admin.headers["authorization"] = f"Bearer {token}"
    assert await shown() == [("30", False)]


async def test_a_sheet_that_this_version_cannot_read_leaves_the_configured_prices(plane: Plane) -> None:
    row = {"sheet_id": "x", "document": '{"format": "v9"}', "is_active": True, "uploaded_by": "a", "uploaded_at": NOON}
    async with plane.store.write() as connection:
        await connection.execute(insert(price_sheets).values(row))
    await plane.services.pricing.start()
    assert plane.services.pricing.current().knows("plan", "claude-opus-5-5")


async def test_models_without_a_price_are_named_until_they_have_one(plane: Plane, admin: httpx.AsyncClient) -> None:
    pricing = plane.services.pricing
    for number in range(1200):
        pricing.note_unknown("plan", f"claude-{number}")
        pricing.note_unknown("plan", f"claude-{number}")
    pricing.note_unknown("plan", "claude-999")
    assert [entry["model"] for entry in pricing.unknown()] == [f"claude-{n}" for n in range(999, 979, -1)]
    await reload(admin, sheet=doubled("claude-999"))
    assert pricing.unknown()[0] == {"provider": "plan", "model": "claude-998"}


async def test_repricing_moves_the_ledger_and_all_that_is_made_of_it_alike(
    plane: Plane, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repricing, "STEP", 40)
    ids = await fill(plane, admin, 100)
    await append(plane, 30, ids, prefix="dear", provider="bedrock", model_served="claude-haiku-5-5")
    before = await books(plane)
    old = 1000 * 4000 + 100 * 20_000 + 50 * 5000 + 20 * 8000 + 3 * 200
    new = 1000 * 5000 + 100 * 30_000 + 50 * 6000 + 20 * 10_000 + 3 * 400
    await reload(admin, sheet=SHEET)

    dry = await reprice(admin, dry_run=True)
    assert (dry["rows"], dry["skipped"], await books(plane)) == (40, 0, before)
    steps, cursor = [], None
    while not steps or cursor:
        steps.append(await reprice(admin, **({"cursor": cursor} if cursor else {})))
        cursor = steps[-1]["next_cursor"]
    assert [step["rows"] for step in steps] == [40, 40, 40, 10]
    assert sum(step["changed"] for step in steps) == 100
    assert sum(step["after_nano_usd"] - step["before_nano_usd"] for step in steps) == 100 * (new - old)
    ledger, hours, days = await books(plane)
    assert ledger == hours == days == before[0] + 100 * (new - old)
    [record] = (await admin.get("/admin/usage/records", params={"request_id": "req_0"})).json()["items"]
    assert (record["cost_nano_usd"], record["estimated"]) == (new, False)
    async with plane.store.read() as connection:
        row = (
            (await connection.execute(select(token_usage).where(token_usage.c.request_id == "req_0"))).mappings().one()
        )
    assert row["pricing_sheet_id"] == plane.services.pricing.sheet.sheet_id
    assert (row["estimated_cost_usd"], row["pricing_output_per_million"]) == (Decimal("0.008501"), 30)
    audited = (await admin.get("/admin/audit", params={"action": "pricing.reprice"})).json()["items"]
    assert sum(entry["after"]["changed"] for entry in audited) == 100

    again = [await reprice(admin), await reprice(admin, cursor=steps[0]["next_cursor"])]
    assert [step["changed"] for step in again] == [0, 0]


async def test_repricing_uses_the_prices_of_each_day_and_the_tier_on_the_books(
    plane: Plane, admin: httpx.AsyncClient
) -> None:
    ids = await fill(plane, admin, 1)
    await append(plane, 1, ids, prefix="early", admitted_at=NOON - timedelta(days=10))
    fast = price(TokenCounts(output=10), sheet=plane.services.pricing.sheet, provider="plan", model="claude-opus-5-5", speed="fast", inference_geo=None)  # fmt: skip
    await append(plane, 1, ids, prefix="fast", tokens=TokenCounts(output=10), cost=fast.cost, price=fast.snapshot)
    assert (await reprice(admin))["changed"] == 0
    tier = OPUS | {"output_price_per_million": "80"}
    await reload(admin, sheet=doubled(effective_date="2026-02-25", fast=tier))
    await reprice(admin)
    costs = {}
    for name in ("req_0", "early_0", "fast_0"):
        [record] = (await admin.get("/admin/usage/records", params={"request_id": name})).json()["items"]
        costs[name] = record["output_cost_nano_usd"] if "output_cost_nano_usd" in record else record["cost_nano_usd"]
    assert costs["fast_0"] == 10 * 80_000
    assert costs["req_0"] > costs["early_0"]


async def test_a_row_that_was_estimated_for_want_of_a_price_is_exact_once_there_is_one(
    plane: Plane, admin: httpx.AsyncClient
) -> None:
    ids = await fill(plane, admin, 1, model_served="claude-new-9")
    await append(plane, 1, ids, prefix="cut", estimated=True)
    await reload(admin, sheet=doubled("claude-new-9"))
    answer = await reprice(admin)
    assert [(item["model"], item["changed"]) for item in answer["items"]] == [
        ("claude-new-9", 1),
        ("claude-opus-5-5", 0),
    ]
    rows = (await admin.get("/admin/usage/records")).json()["items"]
    assert {row["request_id"]: row["estimated"] for row in rows} == {"req_0": False, "cut_0": True}
    async with plane.store.read() as connection:
        marked = select(func.sum(usage_aggregates.c.estimated_requests)).where(usage_aggregates.c.bucket == "hour")
        assert await connection.scalar(marked) == 1


async def test_repricing_takes_the_region_from_the_profile_that_was_asked(
    plane: Plane, admin: httpx.AsyncClient
) -> None:
    await fill(plane, admin, 1, provider="bedrock", model_served="claude-new-9")
    async with plane.store.write() as connection:
        asked = [{"provider": "bedrock", "model": "eu.anthropic.claude-new-9"}]
        await connection.execute(update(token_usage).values(attempts=asked))
    eu, us = (OPUS | {"output_price_per_million": amount} for amount in ("31", "32"))
    await reload(admin, sheet={"eu": {"claude-new-9": eu}, "us": {"claude-new-9": us}})
    await reprice(admin)
    async with plane.store.read() as connection:
        assert await connection.scalar(select(token_usage.c.pricing_output_per_million)) == 31


async def test_repricing_moves_what_is_settled_on_a_budget_and_not_what_is_reserved(
    plane: Plane, admin: httpx.AsyncClient
) -> None:
    user, key = await fill(plane, admin, 3, provider="bedrock")
    start = datetime(2026, 3, 1, tzinfo=UTC)
    spent = (await books(plane))[0]
    for period, begin, settled in (("monthly", start, spent), ("weekly", start - timedelta(days=90), 7)):
        row = {"user_id": user, "period": period, "period_start": begin, "period_end": begin + timedelta(days=31)}
        async with plane.store.write() as connection:
            money = {"settled_nano_usd": settled, "reserved_nano_usd": 5}
            await connection.execute(insert(budget_counters).values(row | money))
    await append(plane, 3, (user, key), prefix="plan")
    both = {"claude-opus-5-5": OPUS}
    await reload(admin, sheet={"bedrock": {"global": both}, "plan": {"global": both}})
    await reprice(admin)
    async with plane.store.read() as connection:
        rows = (await connection.execute(select(budget_counters))).mappings().all()
        bedrock = select(func.sum(token_usage.c.cost_nano_usd)).where(token_usage.c.provider == "bedrock")
        now = await connection.scalar(bedrock)
    assert now is not None
    assert now > spent
    assert {row["period"]: (row["settled_nano_usd"], row["reserved_nano_usd"]) for row in rows} == {
        "monthly": (now, 5),
        "weekly": (7, 5),
    }


async def test_rows_of_erased_keys_are_left_as_they_are(plane: Plane, admin: httpx.AsyncClient) -> None:
    await fill(plane, admin, 2)
    async with plane.store.write() as connection:
        await connection.execute(update(token_usage).values(access_key_id=None))
    before = await books(plane)
    await reload(admin, sheet=SHEET)
    answer = await reprice(admin)
    assert (answer["rows"], answer["skipped"], answer["changed"]) == (2, 2, 0)
    assert await books(plane) == before


@pytest.mark.parametrize(
    "body",
    [
        {"until": "2026-01-01T00:00:00Z"},
        {"since": "2026-02-01"},
        {"cursor": "x"},
        {"cursor": "MS4yLjM"},
        {"cursor": "OTk5OTk5OTk5OTk5OTk5OTk5LjE"},
        {"dry_run": "yes"},
        {"what": 1},
    ],
)
async def test_a_repricing_that_makes_no_sense_is_refused(admin: httpx.AsyncClient, body: dict[str, object]) -> None:
    span = {"since": "2026-02-01T00:00:00Z", "until": "2026-04-01T00:00:00Z"}
    answer = await admin.post(REPRICE, json=span | body)
    _is_the_one_shape(answer)
    assert answer.status_code == 422


async def test_appends_and_repricings_at_once_leave_the_books_closed(
    plane: Plane, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repricing, "STEP", 10)
    ids = await fill(plane, admin, 50)
    await reload(admin, sheet=SHEET)

    async def run() -> None:
        cursor = None
        while True:
            step = await reprice(admin, **({"cursor": cursor} if cursor else {}))
            cursor = step["next_cursor"]
            if not cursor:
                return

    await asyncio.gather(run(), run(), *(append(plane, 5, ids, prefix=f"late{n}") for n in range(8)))
    await run()
    ledger, hours, days = await books(plane)
    assert ledger == hours == days == 90 * (1000 * 5000 + 100 * 30_000 + 50 * 6000 + 20 * 10_000 + 3 * 400)
