"""Prices the daemon computes costs with, in US dollars per million tokens."""

from daemon.contract.common import Answer


class ModelPrice(Answer):
    """The price of one model at one provider. Amounts are decimal strings."""

    provider: str
    region: str
    model: str
    input_price_per_million: str
    output_price_per_million: str
    cache_write_5m_price_per_million: str
    cache_write_1h_price_per_million: str | None
    cache_read_price_per_million: str
    effective_date: str


class ModelPrices(Answer):
    """The price sheet in use."""

    sheet_id: str
    items: list[ModelPrice]
    next_cursor: str | None = None
