"""The pure core: prices, periods, keys, records."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.identity import (
    Conflict,
    KeyFound,
    NoKey,
    find_access_key,
    looks_like_access_key,
    make_access_key,
    mask,
)
from daemon.core.periods import day_start, period_bounds
from daemon.core.pricing import PriceSheetError, load_sheet, price
from daemon.core.record import decode, encode
from daemon.core.tokens import TokenCounts
from daemon.resources import data_file
from tests.factories import usage_record

DOCUMENT = json.loads(data_file("models.json").read_bytes())
SHEET = load_sheet(data_file("models.json").read_bytes())
FIXED = TokenCounts(input=1234, output=567, cache_write_5m=89, cache_write_1h=11, cache_read=4321)
counts = st.integers(0, 10**9)


def by_hand(rates: dict[str, str], tokens: TokenCounts) -> int:
    """The cost in nano-dollars, calculated with decimals from the file's strings."""
    hour = Decimal(rates.get("cache_write_1h") or Decimal(rates["input"]) * 2)
    parts = [
        tokens.input * Decimal(rates["input"]),
        tokens.output * Decimal(rates["output"]),
        tokens.cache_write_5m * Decimal(rates["cache_write_5m"]),
        tokens.cache_write_1h * hour,
        tokens.cache_read * Decimal(rates["cache_read"]),
    ]
    return sum(int((part * 1000).quantize(Decimal(1), ROUND_HALF_UP)) for part in parts)


PRICES = [
    (model["id"], provider, region, rates)
    for model in DOCUMENT["models"]
    for provider, regions in model["prices"].items()
    for region, rates in regions.items()
]


@pytest.mark.parametrize(("model", "provider", "region", "rates"), PRICES)
def test_every_price_of_the_file_is_the_one_charged(
    model: str, provider: str, region: str, rates: dict[str, str]
) -> None:
    priced = price(FIXED, sheet=SHEET, provider=provider, model=model, region=region)
    assert priced.cost.total_nano == by_hand(rates, FIXED)
    assert priced.estimated == ("cache_write_1h" not in rates or "unconfirmed" in rates)
    assert (priced.snapshot.model, priced.snapshot.region) == (model, region)


def test_a_long_prompt_is_charged_at_its_tier_from_one_token_above() -> None:
    haiku = next(rates for model, provider, _, rates in PRICES if (model, provider) == ("claude-haiku-5-5", "plan"))
    at = TokenCounts(input=50_000, cache_read=50_000, output=7)
    above = replace(at, cache_read=50_001)

    def charged(tokens: TokenCounts) -> int:
        return price(tokens, sheet=SHEET, provider="plan", model="claude-haiku-5-5").cost.total_nano

    assert charged(at) == by_hand(haiku, at)
    assert charged(above) == by_hand(haiku["long_context"], above)  # type: ignore[arg-type]


def test_fast_answers_and_regional_inference_cost_what_the_file_says() -> None:
    opus = next(rates for model, provider, _, rates in PRICES if (model, provider) == ("claude-opus-5-5", "plan"))
    fast = price(FIXED, sheet=SHEET, provider="plan", model="claude-opus-5-5", speed="fast")
    assert fast.cost.total_nano == by_hand(opus["fast"] | {}, FIXED)  # type: ignore[operator]
    tokens = TokenCounts(input=1_000_000)
    in_us = price(tokens, sheet=SHEET, provider="plan", model="claude-opus-5-5", inference_geo="us")
    assert in_us.cost.total_nano == 4_400_000_000


@pytest.mark.parametrize("model", ["claude-opus-5-5[1m]", "us.anthropic.claude-opus-5-5", "claude-opus-5-5-20991231"])
def test_a_model_is_known_by_its_other_names(model: str) -> None:
    priced = price(FIXED, sheet=SHEET, provider="plan", model=model)
    assert (priced.snapshot.model, priced.estimated) == ("claude-opus-5-5", False)


@pytest.mark.parametrize("provider", ["plan", "bedrock"])
def test_an_unknown_model_costs_the_dearest_known_price_and_is_marked(provider: str) -> None:
    priced = price(FIXED, sheet=SHEET, provider=provider, model="claude-of-tomorrow")
    dearest = max(Decimal(rates["output"]) for _, p, _, rates in PRICES if p == provider)
    assert priced.estimated
    assert priced.snapshot.output == dearest


@given(counts, counts, counts, counts, counts)
def test_a_cost_is_the_sum_of_its_parts(a: int, b: int, c: int, d: int, e: int) -> None:
    cost = price(TokenCounts(a, b, c, d, e), sheet=SHEET, provider="plan", model="claude-sonnet-4-6").cost
    parts = [
        cost.input_nano,
        cost.output_nano,
        cost.cache_write_5m_nano,
        cost.cache_write_1h_nano,
        cost.cache_read_nano,
    ]
    assert cost.total_nano == sum(parts)
    assert parts == [a * 3000, b * 15_000, c * 3750, d * 6000, e * 300]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d.update(format="x"), "format"),
        (lambda d: d["models"][0]["prices"]["plan"]["global"].update(input="-1"), "input"),
        (lambda d: d["models"][0]["prices"]["plan"]["global"].update(input="0"), "input"),
        (lambda d: d["models"][0]["prices"]["plan"]["global"].update(output="many"), "output"),
        (lambda d: d["models"][0]["prices"]["plan"]["global"].pop("cache_read"), "cache_read"),
        (lambda d: d["models"][0]["prices"].update(moon={}), "moon"),
        (lambda d: d.update(models=[]), "models"),
    ],
)
def test_a_bad_price_sheet_is_refused_by_name(change: object, word: str) -> None:
    document = json.loads(data_file("models.json").read_bytes())
    change(document)  # type: ignore[operator]
    with pytest.raises(PriceSheetError, match=word):
        load_sheet(json.dumps(document).encode())
    with pytest.raises(PriceSheetError, match="JSON"):
        load_sheet(b"{")


ZONES = [ZoneInfo(name) for name in ("UTC", "Asia/Seoul", "America/New_York", "Europe/Berlin", "Pacific/Apia")]


@given(st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)), st.sampled_from(ZONES))  # noqa: DTZ001
def test_an_instant_lies_in_its_day_week_and_month(naive: datetime, zone: ZoneInfo) -> None:
    instant = naive.replace(tzinfo=UTC)
    for kind in ("daily", "weekly", "monthly"):
        start, end = period_bounds(instant, kind, zone)  # type: ignore[arg-type]
        assert start <= instant < end
        assert start.astimezone(zone).hour in (0, 1)
        assert period_bounds(end - timedelta(microseconds=1), kind, zone) == (start, end)  # type: ignore[arg-type]
    assert day_start(instant, zone) == period_bounds(instant, "daily", zone)[0]


def test_a_day_of_a_clock_change_has_its_own_length() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    start, end = period_bounds(datetime(2026, 3, 29, 12, tzinfo=UTC), "daily", berlin)
    assert end - start == timedelta(hours=23)
    start, end = period_bounds(datetime(2026, 10, 25, 12, tzinfo=UTC), "daily", berlin)
    assert end - start == timedelta(hours=25)


@given(st.binary(min_size=32, max_size=32))
def test_a_made_key_is_recognised_and_a_changed_one_is_not(random_bytes: bytes) -> None:
    key = make_access_key(random_bytes)
    assert len(key) == 52
    assert looks_like_access_key(key)
    for position in (3, 20, 51):
        other = "a" if key[position] != "a" else "b"
        assert not looks_like_access_key(key[:position] + other + key[position + 1 :])
    assert key[8:] not in mask(key)


def test_the_key_is_looked_for_in_order_and_twice_is_a_conflict() -> None:
    a, b = (make_access_key(bytes([n]) * 32) for n in (1, 2))
    assert find_access_key(a, []) == KeyFound(a)
    assert find_access_key(None, [(b"x-api-key", a.encode())]) == KeyFound(a)
    assert find_access_key(a, [(b"authorization", b"Bearer " + a.encode())]) == KeyFound(a)
    assert find_access_key(a, [(b"x-api-key", b.encode())]) == Conflict()
    assert find_access_key(None, [(b"x-api-key", b"sk-ant-x"), (b"authorization", b"Basic " + a.encode())]) == NoKey()


def test_a_record_survives_the_journals_form() -> None:
    priced = price(FIXED, sheet=SHEET, provider="plan", model="claude-opus-5-5", inference_geo="us")
    record = usage_record(user_id=uuid4(), cost=priced.cost, price=priced.snapshot, session_id="ä\u0000")
    assert decode(encode(record)) == record
    for damaged in (b"", b"{}", b"[]", encode(record)[:-1], encode(record).replace(b'"tokens"', b'"tokenz"')):
        with pytest.raises(ValueError):
            decode(damaged)
