"""What tokens cost. Integers all the way: prices are nano-dollars per million tokens, costs are nano-dollars."""

from dataclasses import dataclass
from decimal import Decimal

from daemon.core.price_sheets import PriceSheetError, load_sheet
from daemon.core.prices import ModelPrice, PriceSheet, Rates, normalise_model
from daemon.core.record import Cost, PriceSnapshot
from daemon.core.tokens import TokenCounts

__all__ = ["ModelPrice", "PriceSheet", "PriceSheetError", "Priced", "cost_at", "load_sheet", "normalise_model", "price"]

_MILLION = 1_000_000
_NANO = 1_000_000_000


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
    """The cost of one answer, at the price of the model, provider, region and tier that served it.

    `sheet` is the sheet of the day (`PriceSheet.on`); prices that are yet to begin are not looked at.
    """
    found, own = sheet.find(provider, region, model)
    entry = found or sheet.dearest(provider)
    estimated = not own or entry.unconfirmed
    rates, tier = _tier(entry, tokens.prompt, speed)
    if rates.cache_write_1h is None:
        estimated = estimated or tokens.cache_write_1h > 0
    snapshot = _snapshot(sheet, entry, rates, tier, inference_geo if inference_geo in entry.geo_factors else None)
    return Priced(cost_at(tokens, snapshot), snapshot, estimated)


def cost_at(tokens: TokenCounts, prices: PriceSnapshot) -> Cost:
    """Tokens times prices, each part rounded half up once."""
    return Cost(
        input_nano=_part(tokens.input, prices.input),
        output_nano=_part(tokens.output, prices.output),
        cache_write_5m_nano=_part(tokens.cache_write_5m, prices.cache_write_5m),
        cache_write_1h_nano=_part(tokens.cache_write_1h, prices.cache_write_1h),
        cache_read_nano=_part(tokens.cache_read, prices.cache_read),
    )


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
            effective_date=entry.effective_date,
            input=rates.input * factor,
            output=rates.output * factor,
            cache_write_5m=rates.cache_write_5m * factor,
            cache_write_1h=hour * factor,
            cache_read=rates.cache_read * factor,
        )
    return known


def _tier(entry: ModelPrice, prompt: int, speed: str | None) -> tuple[Rates, str]:
    if speed == "fast" and entry.fast is not None:
        return entry.fast, "fast"
    if entry.long_context is not None and entry.long_context_above is not None and prompt > entry.long_context_above:
        return entry.long_context, "long_context"
    return entry.standard, "standard"


def _part(tokens: int, dollars_per_million: Decimal) -> int:
    """Nano-dollars, rounded half up: (tokens x nano-dollars per million) / a million."""
    nano_per_million = int(dollars_per_million * _NANO)  # exact: a sheet accepts nothing finer
    return (tokens * nano_per_million + _MILLION // 2) // _MILLION
