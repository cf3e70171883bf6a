"""Prices as values: what a model costs at a provider in a region, and the sheet that holds all of them."""

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from typing import Literal

from daemon.core.record import PriceSnapshot

Source = Literal["packaged", "file", "environment", "uploaded"]
Key = tuple[str, str, str]  # provider, region, model
PROVIDERS = ("plan", "bedrock")
REGIONS = ("global", "us", "eu", "jp", "au", "apac", "us-gov")
RATES = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")
_PREFIXES = ("us-gov.", "global.", "apac.", "us.", "eu.", "jp.", "au.", "anthropic.")
_SUFFIX = re.compile(r"\[1m\]$")
_BEDROCK_VERSION = re.compile(r"-v\d+(:\d+)?$")
_DATE = re.compile(r"-\d{8}$")


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
    """The price of one model at one provider in one region, with what may change it.

    `since` is the first day on which it holds; None holds until the first dated price of the same model begins.
    """

    model: str
    provider: str
    region: str
    standard: Rates
    long_context_above: int | None
    long_context: Rates | None
    fast: Rates | None
    geo_factors: Mapping[str, Decimal]
    effective_date: date
    since: date | None = None
    unconfirmed: bool = False
    source: Source = "packaged"

    @property
    def key(self) -> Key:
        return (self.provider, self.region, self.model)

    @property
    def begin(self) -> date:
        """The first day on which it holds."""
        return self.since or date.min

    def tiers(self) -> dict[str, Rates]:
        """The rates of each tier it has."""
        named = {"standard": self.standard, "long_context": self.long_context, "fast": self.fast}
        return {name: rates for name, rates in named.items() if rates is not None}


@dataclass(frozen=True, slots=True)
class PriceSheet:
    """All known prices. `sheet_id` is the hash of the documents they came from.

    `changes` are the prices that begin on a day of their own, in the order of these days; `on` tells which hold.
    """

    sheet_id: str
    effective_date: date
    prices: Mapping[Key, ModelPrice]
    names: Mapping[str, str]  # any known name of a model -> its id
    changes: tuple[ModelPrice, ...] = ()
    # Snapshots made so far: as many as the sheet has tiers, whatever clients ask for. Views: one a change at most.
    snapshots: dict[tuple[str, ...], PriceSnapshot] = field(default_factory=dict, compare=False, repr=False)
    views: dict[int, "PriceSheet"] = field(default_factory=dict, compare=False, repr=False)

    def on(self, day: date) -> "PriceSheet":
        """The sheet as it is on a day: of a model's prices the last one that begins no later."""
        if not self.changes:
            return self
        begun = bisect_right(self.changes, day, key=_begin_of)
        view = self.views.get(begun)
        if view is None:
            prices = dict(self.prices) | {entry.key: entry for entry in self.changes[:begun]}
            view = replace(self, prices=prices, changes=(), snapshots={}, views={})
            self.views[begun] = view
        return view

    def upcoming(self, day: date) -> tuple[ModelPrice, ...]:
        """Prices that begin after a day."""
        return self.changes[bisect_right(self.changes, day, key=_begin_of) :]

    def dearest(self, provider: str, model: str | None = None) -> ModelPrice:
        """The highest price of a provider: what a model nobody knows is charged at. With `model`: of its regions."""
        known = [entry for entry in self.prices.values() if entry.provider == provider and model in (None, entry.model)]
        return max(known, key=lambda price: (price.standard.output, price.standard.input, price.region, price.model))

    def name_of(self, model: str) -> str:
        """The id of a model by any of its names, with or without a date that nobody has heard of; else empty."""
        plain = normalise_model(model)
        return self.names.get(model) or self.names.get(plain) or self.names.get(_DATE.sub("", plain), "")

    def find(self, provider: str, region: str, model: str) -> tuple[ModelPrice | None, bool]:
        """The price of a model by any of its names, and whether it is the region's own.

        A region without a price of its own costs what the dearest region does: that is never too little.
        """
        name = self.name_of(model)
        own = self.prices.get((provider, region, name))
        if own is not None:
            return own, True
        if any((provider, place, name) in self.prices for place in REGIONS):
            return self.dearest(provider, name), False
        return None, False

    def knows(self, provider: str, model: str) -> bool:
        """Whether a model has a price at a provider, in whatever region."""
        return self.find(provider, "global", model)[0] is not None


def normalise_model(model: str) -> str:
    """A model id without Claude Code's `[1m]`, a Bedrock profile's prefix and version."""
    model = _SUFFIX.sub("", model)
    for prefix in _PREFIXES:
        model = model.removeprefix(prefix)
    return _BEDROCK_VERSION.sub("", model)


def _begin_of(entry: ModelPrice) -> date:
    return entry.begin
