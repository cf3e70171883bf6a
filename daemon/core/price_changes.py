"""Two price sheets compared, and a price compared with the packaged one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

from daemon.core.prices import RATES, ModelPrice, PriceSheet

FURTHEST = 20  # times away from the packaged price: such a price is a mistake, unless somebody says otherwise


@dataclass(frozen=True, slots=True)
class PriceChange:
    """One entry that is not the same in two sheets, with the fields that differ, before and after."""

    change: Literal["added", "changed", "removed"]
    provider: str
    region: str
    model: str
    since: date | None
    old: Mapping[str, str]
    new: Mapping[str, str]


def diff(old: PriceSheet, new: PriceSheet) -> list[PriceChange]:
    """What has to be done to `old` to make `new` of it, in the order of provider, region, model and day."""
    before, after = _entries(old), _entries(new)
    changes = []
    for key in sorted(before.keys() | after.keys(), key=str):
        was, will = before.get(key, {}), after.get(key, {})
        if was == will:
            continue
        changed = {name for name in was.keys() | will.keys() if was.get(name) != will.get(name)}
        changes.append(
            PriceChange(
                "added" if not was else "removed" if not will else "changed",
                *key,
                old={name: value for name, value in was.items() if name in changed},
                new={name: value for name, value in will.items() if name in changed},
            )
        )
    return changes


def implausible(entry: ModelPrice, packaged: PriceSheet) -> Iterator[str]:
    """What is too far from the packaged price of the same model, provider and region: per token, not per million?"""
    known, _ = packaged.find(entry.provider, entry.region, entry.model)
    if known is None:
        return
    for tier, rates in entry.tiers().items():
        usual = known.tiers().get(tier, known.standard)
        for name in RATES:
            rate, other = getattr(rates, name), getattr(usual, name)
            if rate is not None and other is not None and not other / FURTHEST <= rate <= other * FURTHEST:
                label = name if tier == "standard" else f"{tier}, {name}"
                yield f"{label} {rate} is more than {FURTHEST} times away from the packaged {other}"


def _entries(sheet: PriceSheet) -> dict[tuple[str, str, str, date | None], dict[str, str]]:
    entries = [*sheet.prices.values(), *sheet.changes]
    return {(*entry.key, entry.since): _fields(entry) for entry in entries}


def _fields(entry: ModelPrice) -> dict[str, str]:
    """All that a price says, flat."""
    fields = {}
    for tier, rates in entry.tiers().items():
        for name in RATES:
            rate: Decimal | None = getattr(rates, name)
            if rate is not None:
                fields[name if tier == "standard" else f"{tier}_{name}"] = plain(rate)
    if entry.long_context_above is not None:
        fields["long_context_above_prompt_tokens"] = str(entry.long_context_above)
    fields |= {f"inference_geo_{geo}": plain(factor) for geo, factor in entry.geo_factors.items()}
    return fields | ({"unconfirmed": "yes"} if entry.unconfirmed else {})


def plain(number: Decimal) -> str:
    """A decimal as people write it: without an exponent, without zeros that say nothing."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
