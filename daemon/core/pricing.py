"""What tokens cost. Integers all the way: prices are nano-dollars per million tokens, costs are nano-dollars."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from daemon.core.record import Cost, PriceSnapshot
from daemon.core.tokens import TokenCounts

FORMAT = "proxyctl/models/v1"
PROVIDERS = ("plan", "bedrock")
REGIONS = ("global", "us", "eu", "jp", "au", "apac", "us-gov")
_MILLION = 1_000_000
_NANO = 1_000_000_000
_RATES = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")
_PREFIXES = ("us-gov.", "global.", "apac.", "us.", "eu.", "jp.", "au.", "anthropic.")
_SUFFIX = re.compile(r"\[1m\]$")
_BEDROCK_VERSION = re.compile(r"-v\d+(:\d+)?$")
_DATE = re.compile(r"-\d{8}$")


class PriceSheetError(ValueError):
    """A price sheet that cannot be used; the message names the place."""


@dataclass(frozen=True, slots=True)
class Rates:
    """US dollars per million tokens. A rate that is not stated is None."""

    input: Decimal
    output: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal | None
    cache_read: Decimal


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """The price of one model at one provider in one region, with what may change it."""

    model: str
    provider: str
    region: str
    standard: Rates
    long_context_above: int | None
    long_context: Rates | None
    fast: Rates | None
    geo_factors: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class PriceSheet:
    """All known prices. `sheet_id` is the hash of the document they came from."""

    sheet_id: str
    effective_date: date
    prices: Mapping[tuple[str, str, str], ModelPrice]  # (provider, region, model)
    names: Mapping[str, str]  # any known name of a model -> its id
    # Snapshots made so far: as many as the sheet has tiers, whatever clients ask for.
    snapshots: dict[tuple[str, ...], PriceSnapshot] = field(default_factory=dict, compare=False, repr=False)

    def dearest(self, provider: str, model: str | None = None) -> ModelPrice:
        """The highest price of a provider: what a model nobody knows is charged at. With `model`: of its regions."""
        known = [entry for entry in self.prices.values() if entry.provider == provider and model in (None, entry.model)]
        return max(known, key=lambda price: (price.standard.output, price.standard.input, price.region, price.model))

    def find(self, provider: str, region: str, model: str) -> tuple[ModelPrice | None, bool]:
        """The price of a model by any of its names, and whether it is the region's own.

        A region without a price of its own costs what the dearest region does: that is never too little.
        """
        name = self.names.get(model) or _known_name(self, normalise_model(model))
        own = self.prices.get((provider, region, name))
        if own is not None:
            return own, True
        if any((provider, place, name) in self.prices for place in REGIONS):
            return self.dearest(provider, name), False
        return None, False

    def knows(self, provider: str, model: str) -> bool:
        """Whether a model has a price at a provider, in whatever region."""
        return self.find(provider, "global", model)[0] is not None


@dataclass(frozen=True, slots=True)
class Priced:
    """A cost, the prices it came from, and whether they were guessed."""

    cost: Cost
    snapshot: PriceSnapshot
    estimated: bool


def price(
    tokens: TokenCounts,
    *,
    sheet: PriceSheet,
    provider: str,
    model: str,
    region: str = "global",
    speed: str | None = None,
    inference_geo: str | None = None,
) -> Priced:
    """The cost of one answer, at the price of the model, provider, region and tier that served it."""
    found, own = sheet.find(provider, region, model)
    estimated = not own
    entry = found or sheet.dearest(provider)
    rates, tier = _tier(entry, tokens.prompt, speed)
    if rates.cache_write_1h is None:
        estimated = estimated or tokens.cache_write_1h > 0
    snapshot = _snapshot(sheet, entry, rates, tier, inference_geo if inference_geo in entry.geo_factors else None)
    return Priced(cost_at(tokens, snapshot), snapshot, estimated)


def _known_name(sheet: PriceSheet, model: str) -> str:
    """The id of a model by its normalised name, with or without a date that nobody has heard of."""
    return sheet.names.get(model) or sheet.names.get(_DATE.sub("", model), "")


def _snapshot(sheet: PriceSheet, entry: ModelPrice, rates: Rates, tier: str, geo: str | None) -> PriceSnapshot:
    key = (entry.provider, entry.region, entry.model, tier, geo or "")
    known = sheet.snapshots.get(key)
    if known is None:
        factor = entry.geo_factors[geo] if geo else Decimal(1)
        hour = rates.cache_write_1h
        if hour is None:  # not stated: twice the input price, as for every model that states it
            hour = rates.input * 2
        known = sheet.snapshots[key] = PriceSnapshot(
            sheet_id=sheet.sheet_id,
            provider=entry.provider,
            region=entry.region,
            model=entry.model,
            tier=f"{tier}+{geo}" if geo else tier,
            effective_date=sheet.effective_date,
            input=rates.input * factor,
            output=rates.output * factor,
            cache_write_5m=rates.cache_write_5m * factor,
            cache_write_1h=hour * factor,
            cache_read=rates.cache_read * factor,
        )
    return known


def cost_at(tokens: TokenCounts, prices: PriceSnapshot) -> Cost:
    """Tokens times prices, each part rounded half up once."""
    return Cost(
        input_nano=_part(tokens.input, prices.input),
        output_nano=_part(tokens.output, prices.output),
        cache_write_5m_nano=_part(tokens.cache_write_5m, prices.cache_write_5m),
        cache_write_1h_nano=_part(tokens.cache_write_1h, prices.cache_write_1h),
        cache_read_nano=_part(tokens.cache_read, prices.cache_read),
    )


def normalise_model(model: str) -> str:
    """A model id without Claude Code's `[1m]`, a Bedrock profile's prefix and version."""
    model = _SUFFIX.sub("", model)
    for prefix in _PREFIXES:
        model = model.removeprefix(prefix)
    return _BEDROCK_VERSION.sub("", model)


def load_sheet(document: bytes) -> PriceSheet:
    """Read a price sheet.

    Raises:
        PriceSheetError: naming model, provider and field.
    """
    try:
        raw = json.loads(document, parse_float=Decimal)
    except ValueError as error:
        raise PriceSheetError(f"price sheet is not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise PriceSheetError(f"format: expected {FORMAT!r}")
    prices: dict[tuple[str, str, str], ModelPrice] = {}
    names: dict[str, str] = {}
    for model in raw.get("models", ()):
        identifier = str(model["id"])
        for name in (identifier, normalise_model(identifier), *model.get("aliases", ())):
            names[name] = identifier
        for provider, regions in model.get("prices", {}).items():
            if provider not in PROVIDERS:
                raise PriceSheetError(f"{identifier}: unknown provider {provider!r}, expected plan or bedrock")
            for region, entry in regions.items():
                where = f"{identifier}, {provider}, {region}"
                prices[provider, region, identifier] = _model_price(identifier, provider, region, entry, where)
    if {provider for provider, _, _ in prices} != set(PROVIDERS):
        raise PriceSheetError("models: expected at least one price for plan and one for bedrock")
    sheet_id = hashlib.sha256(document).hexdigest()[:16]
    return PriceSheet(sheet_id, date.fromisoformat(str(raw["effective_date"])), prices, names)


def _model_price(model: str, provider: str, region: str, entry: dict[str, Any], where: str) -> ModelPrice:
    long_context = entry.get("long_context")
    found = ModelPrice(
        model=model,
        provider=provider,
        region=region,
        standard=_rates(entry, where),
        long_context_above=int(long_context["above_prompt_tokens"]) if long_context else None,
        long_context=_rates(long_context, f"{where}, long_context") if long_context else None,
        fast=_rates(entry["fast"], f"{where}, fast") if "fast" in entry else None,
        geo_factors={geo: _decimal(factor, where) for geo, factor in entry.get("inference_geo", {}).items()},
    )
    for factor in (Decimal(1), *found.geo_factors.values()):
        for rates in (found.standard, found.long_context, found.fast):
            for name in _RATES if rates else ():
                rate = getattr(rates, name)
                if rate is not None and not _whole_nano(rate * factor):
                    raise PriceSheetError(f"{where}: {name} times {factor} has more than nine decimals")
    return found


def _rates(entry: dict[str, Any], where: str) -> Rates:
    missing = [name for name in _RATES if name not in entry and name != "cache_write_1h"]
    if missing:
        raise PriceSheetError(f"{where}: {missing[0]} is missing")
    values = {name: _decimal(entry[name], f"{where}, {name}") for name in _RATES if name in entry}
    return Rates(**({"cache_write_1h": None} | values))  # type: ignore[arg-type]


def _decimal(value: object, where: str) -> Decimal:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number <= 0:
        raise PriceSheetError(f"{where}: expected a positive number of dollars, got {str(value)[:40]!r}")
    return number


def _tier(entry: ModelPrice, prompt: int, speed: str | None) -> tuple[Rates, str]:
    if speed == "fast" and entry.fast is not None:
        return entry.fast, "fast"
    if entry.long_context is not None and entry.long_context_above is not None and prompt > entry.long_context_above:
        return entry.long_context, "long_context"
    return entry.standard, "standard"


def _whole_nano(dollars: Decimal) -> bool:
    return dollars * _NANO == int(dollars * _NANO)


def _part(tokens: int, dollars_per_million: Decimal) -> int:
    """Nano-dollars, rounded half up: (tokens x nano-dollars per million) / a million."""
    nano_per_million = int(dollars_per_million * _NANO)  # exact: `load_sheet` accepts nothing finer
    return (tokens * nano_per_million + _MILLION // 2) // _MILLION
