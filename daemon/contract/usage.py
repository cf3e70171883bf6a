"""Usage and cost: totals from the rollups, records from the ledger. Money is exact: nano-dollars and a string."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from daemon.contract.common import Answer

GroupBy = Literal["user", "model", "provider", "key", "day"]
Period = Literal["day", "week", "month"]
Ranking = Literal["cost", "tokens"]


class UsageFigures(Answer):
    """Sums over requests. `input_tokens` excludes what was written to or read from the prompt cache."""

    requests: int
    errors: int
    estimated_requests: int
    input_tokens: int
    output_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    cache_read_tokens: int
    thinking_tokens: int
    cost_nano_usd: int
    cost_usd: str


class UsageGroup(UsageFigures):
    """The figures of one user, key, model, provider or day; `name` is the user's or key's, where it is known."""

    group: str
    name: str | None = None


class UsageSummary(Answer):
    """Figures from `since` up to, not including, `until`."""

    since: datetime
    until: datetime
    group_by: GroupBy | None
    totals: UsageFigures
    items: list[UsageGroup]
    next_cursor: str | None = None


class TopUsers(Answer):
    """Users by cost or tokens, the largest first; each group is a user id."""

    since: datetime
    until: datetime
    by: Ranking
    items: list[UsageGroup]
    next_cursor: str | None = None


class UsageAttempt(Answer):
    """One try at one provider; `failure` is its kind, `model` the provider's own name for the model if it has one."""

    provider: str
    route: str
    status: int | None
    failure: str | None
    duration_ms: int
    model: str | None = None


class UsageEntry(Answer):
    """One row of the ledger. Ids are null once the user or key is gone from the store."""

    request_id: str
    user_id: UUID | None
    access_key_id: UUID | None
    provider: str
    model_requested: str
    model_served: str
    is_stream: bool
    status: int
    ended: str
    estimated: bool
    suspect: bool
    input_tokens: int
    output_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    cache_read_tokens: int
    thinking_tokens: int
    cost_nano_usd: int
    cost_usd: str
    attempts: list[UsageAttempt]
    fallback_reason: str | None
    error_type: str | None
    upstream_request_id: str | None
    session_id: str | None
    first_byte_ms: int | None
    duration_ms: int
    admitted_at: datetime
    finished_at: datetime


def usd(nano: int) -> str:
    """Nano-dollars as an exact decimal string of dollars with nine places."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    return f"{sign}{nano // 1_000_000_000}.{nano % 1_000_000_000:09d}"
