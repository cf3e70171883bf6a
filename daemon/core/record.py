"""The usage record: one row of the ledger, and its form in the journal."""

from dataclasses import dataclass, fields
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from daemon.core.tokens import TokenCounts


class Ended(StrEnum):
    """How an exchange ended, as the client saw it."""

    FINISHED = "finished"  # the provider's answer is complete
    UPSTREAM_CUT = "upstream_cut"  # the provider stopped in the middle of an answer
    CLIENT_LEFT = "client_left"  # the client closed the connection first
    ERROR = "error"  # the provider answered with an error, or could not be reached
    BUDGET = "budget"  # the budget was used up in the middle of an answer
    ORPHANED = "orphaned"  # the replica that served it is gone; what is known of it is on the books


@dataclass(frozen=True, slots=True)
class PriceSnapshot:
    """The prices a cost was computed with: US dollars per million tokens."""

    sheet_id: str
    provider: str
    region: str
    model: str
    tier: str
    effective_date: date
    input: Decimal
    output: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    cache_read: Decimal


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost in nano-dollars (1e-9 US dollars), each part rounded half up once; the total is their sum."""

    input_nano: int = 0
    output_nano: int = 0
    cache_write_5m_nano: int = 0
    cache_write_1h_nano: int = 0
    cache_read_nano: int = 0

    @property
    def total_nano(self) -> int:
        return (
            self.input_nano
            + self.output_nano
            + self.cache_write_5m_nano
            + self.cache_write_1h_nano
            + self.cache_read_nano
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one provider, or, with failure `circuit_open`, one that was left out. `model` is the provider's name
    for the model where it has one of its own."""

    provider: str
    route: str
    status: int | None
    failure: str | None
    duration_ms: int
    model: str | None = None


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """Everything the ledger keeps of one exchange. `request_id` is ours and unique."""

    request_id: str
    user_id: UUID
    access_key_id: UUID
    provider: str
    model_requested: str
    model_served: str
    stream: bool
    status: int
    ended: Ended
    estimated: bool
    suspect: bool
    tokens: TokenCounts
    cost: Cost
    price: PriceSnapshot | None
    attempts: tuple[Attempt, ...]
    admitted_at: datetime
    finished_at: datetime
    duration_ms: int
    first_byte_ms: int | None = None
    fallback_reason: str | None = None
    error_type: str | None = None
    upstream_request_id: str | None = None
    session_id: str | None = None
    agent_id: str | None = None
    parent_agent_id: str | None = None
    request_class: str | None = None
    prompt_id: str | None = None


def encode(record: UsageRecord) -> bytes:
    """The record as one JSON object: what the journal stores."""
    return orjson.dumps(record, default=_plain)


def decode(payload: bytes) -> UsageRecord:
    """The inverse of `encode`.

    Raises:
        ValueError: the payload is not an encoded record.
    """
    try:
        raw: dict[str, Any] = orjson.loads(payload)
        raw["user_id"] = UUID(raw["user_id"])
        raw["access_key_id"] = UUID(raw["access_key_id"])
        raw["ended"] = Ended(raw["ended"])
        raw["tokens"] = TokenCounts(**raw["tokens"])
        raw["cost"] = Cost(**raw["cost"])
        raw["price"] = None if raw["price"] is None else _price(raw["price"])
        raw["attempts"] = tuple(Attempt(**attempt) for attempt in raw["attempts"])
        raw["admitted_at"] = datetime.fromisoformat(raw["admitted_at"])
        raw["finished_at"] = datetime.fromisoformat(raw["finished_at"])
        return UsageRecord(**raw)
    except (KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(f"not a usage record: {error!r}") from error


_PRICES = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")


def _price(raw: dict[str, Any]) -> PriceSnapshot:
    values = {field.name: raw[field.name] for field in fields(PriceSnapshot)}
    values["effective_date"] = date.fromisoformat(raw["effective_date"])
    return PriceSnapshot(**(values | {name: Decimal(raw[name]) for name in _PRICES}))


def _plain(value: object) -> str:
    if isinstance(value, Decimal | UUID):  # a driver's own subclass of UUID among them
        return str(value)
    raise TypeError(f"cannot encode {type(value).__name__}")
