"""Prices the daemon computes costs with, in US dollars per million tokens. Amounts are decimal strings."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from daemon.contract.common import Answer, Instant, Request

PriceSource = Literal["packaged", "file", "environment", "uploaded"]


class TierPrice(Answer):
    """Rates of a tier; `above_prompt_tokens` where it begins with the size of the prompt."""

    above_prompt_tokens: int | None = None
    input_price_per_million: str
    output_price_per_million: str
    cache_write_5m_price_per_million: str
    cache_write_1h_price_per_million: str | None
    cache_read_price_per_million: str


class ModelPrice(TierPrice):
    """The price of one model at one provider in one region.

    `upcoming`: it does not hold yet, but from `effective_date` on. `unconfirmed`: what is charged at it is estimated.
    """

    provider: str
    region: str
    model: str
    effective_date: str
    source: PriceSource
    upcoming: bool
    unconfirmed: bool
    long_context: TierPrice | None
    fast: TierPrice | None
    inference_geo: dict[str, str]


class ModelPrices(Answer):
    """The price sheet in use."""

    sheet_id: str
    items: list[ModelPrice]
    next_cursor: str | None = None


class PriceReload(Request):
    """What to load: an uploaded sheet (its text, or the object itself), or without one what is configured.

    `force` takes prices that are more than twenty times away from the packaged ones. `dry_run` only answers.
    """

    sheet: str | dict[str, Any] | None = None
    force: bool = False
    dry_run: bool = False


class PriceChange(Answer):
    """A price that is not what it was: the fields that differ, before and after."""

    change: Literal["added", "changed", "removed"]
    provider: str
    region: str
    model: str
    effective_date: str | None
    old: dict[str, str]
    new: dict[str, str]


class PricesReloaded(Answer):
    """What a reload changed, or would change."""

    result: Literal["reloaded", "unchanged", "dry_run"]
    sheet_id: str
    previous_sheet_id: str
    added: int
    changed: int
    removed: int
    items: list[PriceChange]
    next_cursor: str | None = None


class Reprice(Request):
    """Which requests to price anew, by the instant of their admission; `cursor` continues."""

    since: Annotated[Instant, Field(strict=False)]
    until: Annotated[Instant, Field(strict=False)]
    dry_run: bool = False
    cursor: Annotated[str, Field(max_length=256)] | None = None


class RepricedModel(Answer):
    """What repricing did to the rows of one model, in nano-dollars."""

    provider: str
    model: str
    rows: int
    changed: int
    before_nano_usd: int
    after_nano_usd: int


class Repriced(Answer):
    """One step of repricing. Rows of erased users and keys are `skipped`: nobody's figures are made from them."""

    sheet_id: str
    dry_run: bool
    rows: int
    changed: int
    skipped: int
    before_nano_usd: int
    after_nano_usd: int
    items: list[RepricedModel]
    reached: datetime | None
    next_cursor: str | None = None
