"""Usage and cost: totals from the rollups, records from the ledger. Money is exact: nano-dollars and a string."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from daemon.contract.common import Answer

GroupBy = Literal["user", "model", "provider", "key", "team", "session", "day"]
Bucket = Literal["minute", "hour", "day", "week", "month"]
CacheGroupBy = Literal["model", "session"]
ExportFormat = Literal["jsonl", "csv"]
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
    input_cost_nano_usd: int
    output_cost_nano_usd: int
    cache_write_5m_cost_nano_usd: int
    cache_write_1h_cost_nano_usd: int
    cache_read_cost_nano_usd: int
    cost_nano_usd: int
    input_cost_usd: str
    output_cost_usd: str
    cache_write_cost_usd: str
    cache_read_cost_usd: str
    cost_usd: str


class UsageGroup(UsageFigures):
    """The figures of one user, key, model, provider, team, session or day; `name` is the user's or key's, if known."""

    group: str
    name: str | None = None


class UsageBucket(UsageFigures):
    """The figures of one bucket of time. The first and the last may lie partly outside the range: only what is in the
    range counts."""

    start: datetime
    end: datetime


class SeriesPoint(Answer):
    """One group in one bucket."""

    start: datetime
    requests: int
    tokens: int
    cost_nano_usd: int
    cost_usd: str


class UsageSeries(Answer):
    """One group over time, a point for every bucket; `group` is null for all the others together."""

    group: str | None
    name: str | None = None
    points: list[SeriesPoint]


class Covered(Answer):
    """What a report covers: from `since` up to, not including, `until`, in days of `timezone`.

    `rounded`: the ledger of that time has been deleted, and the range was widened to whole hours or days.
    """

    since: datetime
    until: datetime
    timezone: str
    rounded: bool


class UsageSummary(Covered):
    """Totals, their groups with `group_by`, their buckets and the largest groups' series with `bucket`."""

    group_by: GroupBy | None
    bucket: Bucket | None
    totals: UsageFigures
    items: list[UsageGroup]
    buckets: list[UsageBucket]
    series: list[UsageSeries]
    next_cursor: str | None = None


class TopUsers(Covered):
    """Users by cost or tokens, the largest first; each group is a user id. With `bucket`, a series of each, and of all
    the others together."""

    by: Ranking
    bucket: Bucket | None
    items: list[UsageGroup]
    series: list[UsageSeries]
    next_cursor: str | None = None


class CacheGroup(UsageFigures):
    """The prompt cache of one model or session.

    `hit_ratio` is the share of prompt tokens that were read from the cache, as a decimal with four places; null without
    prompts. `misses_cost_nano_usd` is what the other prompt tokens cost above the price of reading them: that of the
    group's own reads, or, when it has none, a tenth of its input price.
    """

    group: str
    hit_ratio: str | None
    misses_cost_nano_usd: int
    misses_cost_usd: str


class CacheReport(Covered):
    """The prompt cache by model or session, the most expensive misses first."""

    group_by: CacheGroupBy
    totals: CacheGroup
    items: list[CacheGroup]
    next_cursor: str | None = None


class SessionRequest(Answer):
    """One request in the tree of a session."""

    request_id: str
    user_id: UUID | None
    provider: str
    model_served: str
    status: int
    ended: str
    estimated: bool
    request_class: str | None
    prompt_id: str | None
    input_tokens: int
    output_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    cache_read_tokens: int
    cost_nano_usd: int
    cost_usd: str
    duration_ms: int
    admitted_at: datetime


class SessionAgent(Answer):
    """One agent: its own requests, those of the agents it started, and the figures of both together.

    The agent without an id is the session's main one; agents whose starter is not known stand under it.
    """

    agent_id: str | None
    own: UsageFigures
    totals: UsageFigures
    requests: list[SessionRequest]
    agents: list["SessionAgent"]


class SessionTree(Answer):
    """A session as a tree of agents. `truncated`: figures are of all requests, but not all of them are listed."""

    session_id: str
    user_ids: list[UUID]
    first_at: datetime
    last_at: datetime
    truncated: bool
    root: SessionAgent


class UsageAttempt(Answer):
    """One try at one provider; `failure` is its kind, `model` the provider's own name for the model if it has one."""

    provider: str
    route: str
    status: int | None
    failure: str | None
    duration_ms: int
    model: str | None = None


class UsageEntry(Answer):
    """One row of the ledger. Ids and names are null once the user or key is gone from the store. An export continues
    after `cursor`."""

    request_id: str
    user_id: UUID | None
    user_name: str | None
    access_key_id: UUID | None
    access_key_name: str | None
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
    input_cost_nano_usd: int
    output_cost_nano_usd: int
    cache_write_5m_cost_nano_usd: int
    cache_write_1h_cost_nano_usd: int
    cache_read_cost_nano_usd: int
    cost_nano_usd: int
    cost_usd: str
    attempts: list[UsageAttempt]
    fallback_reason: str | None
    error_type: str | None
    upstream_request_id: str | None
    session_id: str | None
    agent_id: str | None
    parent_agent_id: str | None
    request_class: str | None
    prompt_id: str | None
    first_byte_ms: int | None
    duration_ms: int
    admitted_at: datetime
    finished_at: datetime
    cursor: str


def usd(nano: int) -> str:
    """Nano-dollars as an exact decimal string of dollars with nine places."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    return f"{sign}{nano // 1_000_000_000}.{nano % 1_000_000_000:09d}"
