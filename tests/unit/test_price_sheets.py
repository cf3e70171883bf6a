"""Price sheets: every price against the file, overrides, days, and what is refused with line and reason."""

import contextlib
import json
from collections.abc import Callable
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.json_places import JsonDocument
from daemon.core.price_changes import diff
from daemon.core.price_sheets import PriceSheetError, load_sheet, overlay
from daemon.core.prices import PriceSheet
from daemon.core.pricing import price
from daemon.core.tokens import TokenCounts
from daemon.resources import data_file

BYTES = data_file("models.json").read_bytes()
DOCUMENT = json.loads(BYTES)
SHEET = load_sheet(BYTES)
DAY = date(2026, 6, 1)
OPUS = {
    "input_price_per_million": "5.00",
    "output_price_per_million": 26,
    "cache_write_price_per_million": 6.5,
    "cache_read_price_per_million": "0.3",
}
HALF = {"input": "2", "output": "10", "cache_write_5m": "2.5", "cache_write_1h": "4", "cache_read": "0.1"}
NEWER = {"input": "3", "output": "11", "cache_write_5m": "2.6", "cache_write_1h": "5", "cache_read": "0.2"}


def over(document: object, below: PriceSheet = SHEET, **options: Any) -> PriceSheet:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return overlay(below, text, **({"source": "environment", "packaged": SHEET} | options))


def package(model: str, prices: object, **more: object) -> dict[str, Any]:
    return {"format": "proxyctl/models/v1", "models": [{"id": model, "prices": prices}]} | more


def problems(document: object, **options: Any) -> list[str]:
    with pytest.raises(PriceSheetError) as caught:
        over(document, **options)
    return [str(problem) for problem in caught.value.problems]


def tiers() -> list[tuple[str, str, str, str, str | None, dict[str, str]]]:
    """Model, provider, region, tier, geo and rates: everything that the file has a price for."""
    found = []
    for model in DOCUMENT["models"]:
        for provider, regions in model["prices"].items():
            for region, entry in regions.items():
                rates = {"standard": entry} | {name: entry[name] for name in ("long_context", "fast") if name in entry}
                for tier, own in rates.items():
                    found += [
                        (model["id"], provider, region, tier, g, own) for g in (None, *entry.get("inference_geo", {}))
                    ]
    return found


def factor(model: str, geo: str | None) -> Decimal:
    prices = next(m for m in DOCUMENT["models"] if m["id"] == model)["prices"]
    return Decimal(prices["plan"]["global"]["inference_geo"][geo]) if geo else Decimal(1)


@pytest.mark.parametrize(("model", "provider", "region", "tier", "geo", "rates"), tiers())
def test_every_tier_of_the_file_is_charged_as_calculated_by_hand(
    model: str, provider: str, region: str, tier: str, geo: str | None, rates: dict[str, str]
) -> None:
    long = int(rates.get("above_prompt_tokens", 0))
    tokens = TokenCounts(input=1234 + long, output=567, cache_write_5m=89, cache_write_1h=11, cache_read=4321)
    speed = "fast" if tier == "fast" else None
    priced = price(tokens, sheet=SHEET, provider=provider, model=model, region=region, speed=speed, inference_geo=geo)
    hour = rates.get("cache_write_1h", str(2 * Decimal(rates["input"])))
    parts = [
        (tokens.input, rates["input"]),
        (tokens.output, rates["output"]),
        (tokens.cache_write_5m, rates["cache_write_5m"]),
        (tokens.cache_write_1h, hour),
        (tokens.cache_read, rates["cache_read"]),
    ]
    nano = [count * Decimal(rate) * factor(model, geo) * 1000 for count, rate in parts]
    assert priced.cost.total_nano == sum(int(part.quantize(Decimal(1), ROUND_HALF_UP)) for part in nano)
    assert priced.snapshot.tier == (f"{tier}+{geo}" if geo else tier)


def test_the_file_covers_every_tier_there_is() -> None:
    kinds = {(provider, tier, geo) for _, provider, _, tier, geo, _ in tiers()}
    assert {("plan", "fast", "us"), ("plan", "long_context", "us"), ("bedrock", "long_context", None)} <= kinds


counts = st.integers(0, 10**7)


@given(st.sampled_from(sorted(SHEET.prices)), counts, counts, counts, counts, counts, st.sampled_from([None, "fast"]))
def test_the_cost_of_any_usage_is_the_sum_of_its_parts(
    key: tuple[str, str, str], a: int, b: int, c: int, d: int, e: int, speed: str | None
) -> None:
    provider, region, model = key
    priced = price(TokenCounts(a, b, c, d, e), sheet=SHEET, provider=provider, region=region, model=model, speed=speed)
    cost, rates = priced.cost, priced.snapshot
    parts = [
        cost.input_nano,
        cost.output_nano,
        cost.cache_write_5m_nano,
        cost.cache_write_1h_nano,
        cost.cache_read_nano,
    ]
    assert cost.total_nano == sum(parts)
    exact = [
        a * rates.input,
        b * rates.output,
        c * rates.cache_write_5m,
        d * rates.cache_write_1h,
        e * rates.cache_read,
    ]
    assert all(abs(part - dollars * 1000) <= Decimal("0.5") for part, dollars in zip(parts, exact, strict=True))


@given(st.sets(st.sampled_from(sorted(SHEET.prices)), max_size=8), st.integers(2, 15))
def test_an_override_keeps_what_it_does_not_name(named: set[tuple[str, str, str]], times: int) -> None:
    document: dict[str, Any] = {}
    for provider, region, model in named:
        standard = SHEET.prices[provider, region, model].standard
        document.setdefault(provider, {}).setdefault(region, {})[model] = {
            "input_price_per_million": str(standard.input * times),
            "output_price_per_million": str(standard.output * times),
            "cache_write_price_per_million": str(standard.cache_write_5m * times),
            "cache_read_price_per_million": str(standard.cache_read * times),
        }
    sheet = over(document)
    for key, entry in SHEET.prices.items():
        now = sheet.prices[key]
        assert now.standard.input == entry.standard.input * (times if key in named else 1)
        assert (now.long_context, now.fast, now.geo_factors) == (entry.long_context, entry.fast, entry.geo_factors)
        assert now.source == ("environment" if key in named else "packaged")
    assert {(c.provider, c.region, c.model) for c in diff(SHEET, sheet)} == named
    assert (sheet.sheet_id == SHEET.sheet_id) == (not named)


def test_without_a_provider_an_override_is_about_bedrock_and_an_aws_region_means_its_geography() -> None:
    sheet = over({"ap-northeast-2": {"anthropic.claude-opus-5-5": OPUS}, "global": {"claude-opus-5-5[1m]": OPUS}})
    changed = {key for key in sheet.prices if sheet.prices[key] != SHEET.prices[key]}
    assert changed == {("bedrock", "apac", "claude-opus-5-5"), ("bedrock", "global", "claude-opus-5-5")}
    assert sheet.prices["bedrock", "apac", "claude-opus-5-5"].standard.output == 26


def test_an_override_may_name_hour_writes_tiers_and_factors_and_take_tiers_away() -> None:
    tier = OPUS | {"above_prompt_tokens": 5, "cache_write_1h_price_per_million": "9"}
    entry = OPUS | {"cache_write_1h_price_per_million": "8", "long_context": tier, "fast": None}
    sheet = over({"plan": {"global": {"claude-opus-5-5": entry | {"inference_geo": {"eu": "1.2"}}}}})
    found = sheet.prices["plan", "global", "claude-opus-5-5"]
    assert (found.fast, found.long_context_above, found.geo_factors) == (None, 5, {"eu": Decimal("1.2")})
    assert found.long_context is not None
    assert (found.standard.cache_write_1h, found.long_context.cache_write_1h) == (8, 9)
    priced = price(TokenCounts(cache_write_1h=10), sheet=over({"global": {"claude-opus-5-5": OPUS}}), provider="bedrock", model="claude-opus-5-5")  # fmt: skip
    assert (priced.cost.total_nano, priced.estimated) == (10 * 2 * 5000, True)


def test_a_file_in_the_form_of_the_package_replaces_whole_entries_and_adds_models() -> None:
    more = {"id": "claude-new-9", "aliases": ["claude-new"], "prices": {"bedrock": {"us": HALF}}}
    document = package("claude-opus-5-5", {"plan": {"global": HALF}})
    document["models"].append(more)
    sheet = over(document, source="file")
    assert sheet.prices["plan", "global", "claude-opus-5-5"].fast is None
    assert sheet.knows("bedrock", "us.anthropic.claude-new-v1:0")
    assert not SHEET.knows("bedrock", "claude-new")
    assert len(sheet.prices) == len(SHEET.prices) + 1
    assert over(BYTES, source="file").prices.keys() == SHEET.prices.keys()
    assert diff(SHEET, over(BYTES, source="file")) == []


def test_a_price_holds_from_its_day_until_the_next_one_begins() -> None:
    dated = [HALF | {"effective_date": str(DAY + timedelta(days=9))}, NEWER | {"effective_date": str(DAY)}]
    sheet = over(package("claude-opus-5-5", {"plan": {"global": dated}}))

    def charged(day: date, sheet: PriceSheet = sheet) -> Decimal:
        tokens = TokenCounts(input=1_000_000)
        return price(tokens, sheet=sheet.on(day), provider="plan", model="claude-opus-5-5").snapshot.input

    begin = timedelta(days=9)
    assert [charged(day) for day in (date.min, DAY - timedelta(1), DAY, DAY + begin, date.max)] == [4, 4, 3, 2, 2]
    assert [entry.since for entry in sheet.upcoming(DAY)] == [DAY + begin]
    assert sheet.on(DAY) is sheet.on(DAY + timedelta(days=1))

    later = over({"plan": {"global": {"claude-opus-5-5": OPUS | {"effective_date": str(DAY + timedelta(1))}}}}, sheet)
    days = [DAY - timedelta(1), DAY, DAY + timedelta(1), DAY + begin]
    assert [charged(day, later) for day in days] == [4, 3, 5, 5], "an override holds over all that was to come"
    assert charged(date.max, over({"plan": {"global": {"claude-opus-5-5": OPUS}}}, later)) == 5


def test_a_model_whose_only_price_is_yet_to_begin_is_not_known_until_then() -> None:
    sheet = over(package("claude-new-9", {"plan": {"global": HALF | {"effective_date": "2027-01-01"}}}))
    assert [sheet.on(date(year, 1, 1)).knows("plan", "claude-new-9") for year in (2026, 2027)] == [False, True]


def test_an_unconfirmed_price_is_charged_and_marked() -> None:
    priced = price(TokenCounts(input=10), sheet=SHEET, provider="bedrock", model="claude-fable-5-2", region="eu")
    assert (priced.cost.total_nano, priced.estimated) == (88_000, True)


def test_the_difference_of_two_sheets_says_what_was_added_changed_and_removed() -> None:
    sheet = over({"plan": {"global": {"claude-new-9": OPUS, "claude-opus-5-5": OPUS}}})
    added, changed = sorted(diff(SHEET, sheet), key=lambda change: change.change)
    assert (added.change, added.model, added.old, added.new["output"]) == ("added", "claude-new-9", {}, "26")
    assert (changed.change, changed.old["output"], changed.new["output"]) == ("changed", "20", "26")
    assert "fast_input" not in changed.new
    assert (changed.old["cache_write_1h"], changed.new.get("cache_write_1h")) == ("8", None)
    assert [change.change for change in diff(sheet, SHEET)] == [
        "changed" if c.old else "removed" for c in diff(SHEET, sheet)
    ]


@pytest.mark.parametrize("times", [Decimal("0.000001"), Decimal(400), Decimal(21), Decimal("0.04")])
def test_a_price_far_from_the_packaged_one_needs_force(times: Decimal) -> None:
    document = {"global": {"claude-opus-5-5": OPUS | {"output_price_per_million": str(20 * times)}}}
    [problem] = problems(document)
    assert problem.startswith("line 1, column 32: claude-opus-5-5, bedrock, global: output ")
    assert "more than 20 times away from the packaged 20" in problem
    assert over(document, force=True).prices != SHEET.prices
    assert over(document | {"force": True}).prices != SHEET.prices
    over({"global": {"claude-new-9": OPUS | {"output_price_per_million": str(20 * times)}}})


BAD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda entry: entry.pop("cache_read_price_per_million"), "cache_read_price_per_million is missing"),
    (lambda entry: entry.update(input_price_per_million="-1"), "input_price_per_million: expected a positive number"),
    (lambda entry: entry.update(input_price_per_million=0), "expected a positive number of dollars"),
    (lambda entry: entry.update(input_price_per_million=float("nan")), "got 'nan'"),
    (lambda entry: entry.update(input_price_per_million=float("inf")), "got 'inf'"),
    (lambda entry: entry.update(input_price_per_million="1e99"), "got '1e99'"),
    (lambda entry: entry.update(input_price_per_million=True), "got 'True'"),
    (lambda entry: entry.update(input_price_per_million=[4]), "got '[4]'"),
    (lambda entry: entry.update(input_price_per_million="4.0000000001"), "more than nine decimals"),
    (lambda entry: entry.update(ouput_price_per_million="4"), "ouput_price_per_million is not a known field"),
    (lambda entry: entry.update(effective_date="2026-13-01"), "effective_date: expected a day such as 2026-01-31"),
    (lambda entry: entry.update(effective_date=20260101), "effective_date: expected a day"),
    (lambda entry: entry.update(inference_geo={"us": 0}), "inference_geo, us: expected a positive number of times"),
    (lambda entry: entry.update(inference_geo={"US\ud800": 1}), "inference_geo: expected a name such as us"),
    (lambda entry: entry.update(long_context=OPUS), "above_prompt_tokens: expected a number of tokens"),
    (lambda entry: entry.update(fast=[1]), "fast: expected an object"),
    (lambda entry: entry.update(unconfirmed="no"), "unconfirmed: expected true or false"),
]


@pytest.mark.parametrize(("change", "reason"), BAD)
def test_a_bad_price_is_refused_with_its_place_and_the_reason(
    change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    entry: dict[str, Any] = dict(OPUS)
    change(entry)
    found = problems(json.dumps({"bedrock": {"us": {"claude-opus-5-5": entry}}}, indent=1).encode())
    assert all(problem.startswith("line ") and "claude-opus-5-5, bedrock, us" in problem for problem in found)
    assert any(reason in problem for problem in found), found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"us": {\n  "m": {,}}', "line 2, column 9: "),
        (b"", "line 1, column 1: "),
        (b"\xff", "is not UTF-8"),
        (b"[" * 100_000, "too large"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "too large"),
        (b"[]", "expected an object"),
        (b'{"us": {},\n "us": {}}', "line 2, column 8: 'us' is written twice"),
        (b'{"bedrock": {"us": {}}, "us": {}}', "unknown region"),
        (b'{"mars": {"claude-opus-5-5": {}}}', "unknown region, expected global, us, eu"),
        (b'{"plan": {"us": {"claude-opus-5-5": {}}}}', "unknown region, expected global"),
        (b'{"us": []}', "us: expected an object"),
        (b'{"us": {"": {}}}', "expected the name of a model"),
        (b'{"format": "v2"}', "format: expected 'proxyctl/models/v1'"),
        (b'{"models": []}', "format: expected"),
        (b'{"format": "proxyctl/models/v1", "models": 3}', "models: expected a list"),
        (b'{"format": "proxyctl/models/v1", "models": [], "currency": "EUR"}', "currency: expected 'USD'"),
        (b'{"format": "proxyctl/models/v1", "models": [], "unit": "token"}', "unit: expected 'million tokens'"),
        (b'{"format": "proxyctl/models/v1", "models": [{}]}', "models[0]: expected an id"),
        (b'{"format": "proxyctl/models/v1", "models": [7]}', "models[0]: expected an object"),
        (b'{"format": "proxyctl/models/v1", "models": [{"id": "x", "prices": {"moon": {}}}]}', "unknown provider 'moon'"),
        (
            b'{"format": "proxyctl/models/v1", "models": [{"id": "x", "aliases": ["claude-opus-5-5"]}]}',
            "'claude-opus-5-5' is another model's name",
        ),
    ],
)  # fmt: skip
def test_a_sheet_that_is_none_is_refused_with_the_reason(text: bytes, reason: str) -> None:
    found = problems(text)
    assert any(reason in problem for problem in found), found


def test_two_prices_of_one_model_for_the_same_days_are_refused() -> None:
    twice = [OPUS | {"effective_date": "2026-01-01"}] * 2
    assert "there is another price from 2026-01-01" in problems({"us": {"claude-opus-5-5": twice}})[0]
    spelled = {"us": {"claude-opus-5-5": OPUS, "us.anthropic.claude-opus-5-5": OPUS}}
    assert "there is another price without an effective_date" in problems(spelled)[0]
    assert "there is another price" in problems({"us-east-1": {"claude-opus-5-5": OPUS}, "us": {"claude-opus-5-5": OPUS}})[0]  # fmt: skip


def test_all_problems_are_told_at_once_but_no_more_than_twenty() -> None:
    bad = {f"model-{n}": OPUS | {"input_price_per_million": "-1"} for n in range(30)}
    found = problems(json.dumps({"us": bad}, indent=1).encode())
    assert len(found) == 20
    assert found[0].startswith("line 4, column 31: model-0, bedrock, us, input_price_per_million: expected")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["plan", "bedrock", "us", "global", "claude-opus-5-5", "x", *OPUS, "fast", "force", "effective_date"]
)
NEARLY = st.recursive(
    JSON, lambda inner: st.dictionaries(NAMES, inner, max_size=4) | st.lists(inner, max_size=2), max_leaves=20
)  # fmt: skip


@given(st.dictionaries(NAMES | st.sampled_from(["format", "models"]), NEARLY, max_size=4) | NEARLY | st.just({"format": "proxyctl/models/v1"}))  # fmt: skip
def test_whatever_is_uploaded_is_taken_or_refused(document: object) -> None:
    for load in (lambda text: over(text), load_sheet):
        with contextlib.suppress(PriceSheetError):
            load(json.dumps(document).encode())


@given(st.binary(max_size=40))
def test_bytes_that_are_no_sheet_are_refused(document: bytes) -> None:
    with contextlib.suppress(PriceSheetError):
        over(document)


def test_a_value_is_found_again_in_the_text() -> None:
    document = JsonDocument('\ufeff{"a": [1,\n  {"b\\n": {"c" : "x"}}],\n "d": {}}'.encode())
    places = {path: (p := document.problem(path, "")) and (p.line, p.column) for path in (("a", 0), ("a", 1, "b\n", "c"), ("d",), ("a", 9), ("d", "e"))}  # fmt: skip
    assert places == {
        ("a", 0): (1, 8),
        ("a", 1, "b\n", "c"): (2, 18),
        ("d",): (3, 7),
        ("a", 9): (1, 7),
        ("d", "e"): (3, 7),
    }
