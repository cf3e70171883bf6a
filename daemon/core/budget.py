"""Budgets: what may be spent in a period, what a request may cost at most, and what the client is told.

Pure. Amounts are nano-dollars, instants are aware.
"""

import math
from collections import deque
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from daemon.core.periods import Period
from daemon.core.tokens import TokenCounts

Mode = Literal["strict", "balanced", "off"]
Scope = Literal["bedrock", "all"]
BYTES_PER_TOKEN = 2.2  # no text of a prompt has fewer
TOKENS_PER_IMAGE = 1_600
FLOOR_OUTPUT = 2_000  # tokens reserved for an answer at least, and the step of a top-up
_REMEMBERED = 200
_ENOUGH = 20
_WARNINGS = (0.95, 0.75)
_CENT = 10_000_000
_PREFIX = b"anthropic-ratelimit-unified-"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a user may spend in each period; `limit_nano` None: no limit."""

    limit_nano: int | None
    period: Period


NO_BUDGET = Budget(None, "monthly")


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget and how much of it is gone. `reserved_nano` belongs to requests that are under way."""

    limit_nano: int
    period: Period
    settled_nano: int
    reserved_nano: int
    resets_at: datetime

    @property
    def utilization(self) -> float:
        """Share of the limit that is spent, from 0; a limit of nothing is spent."""
        return self.settled_nano / self.limit_nano if self.limit_nano else 1.0


def counts(scope: Scope, provider: str) -> bool:
    """Whether the cost of a provider counts against budgets: a plan is a fixed cost for many."""
    return scope == "all" or provider == "bedrock"


def prompt_bound(body_bytes: int, media_bytes: int, images: int) -> TokenCounts:
    """The most tokens a prompt can have, counted as what costs most: written to the one-hour cache."""
    text = max(0, body_bytes - media_bytes)
    return TokenCounts(cache_write_1h=math.ceil(text / BYTES_PER_TOKEN) + images * TOKENS_PER_IMAGE)


class OutputHistory:
    """What answers really took, so that a request for 64,000 tokens that will use 400 reserves no 64,000."""

    def __init__(self, answers: MutableMapping[tuple[str, str], deque[int]]) -> None:
        self._answers = answers  # bounded by whoever gives it

    def add(self, key: str, model: str, output: int) -> None:
        """Remember an answer's output tokens."""
        answers = self._answers.get((key, model))
        if answers is None:
            answers = self._answers[key, model] = deque(maxlen=_REMEMBERED)
        answers.append(output)

    def expected(self, key: str, model: str, max_tokens: int | None) -> int:
        """Tokens to reserve: the 95th percentile of this key and model, between the floor and what was asked for."""
        answers = self._answers.get((key, model), ())
        usual = FLOOR_OUTPUT
        if len(answers) >= _ENOUGH:
            usual = max(FLOOR_OUTPUT, sorted(answers)[int(0.95 * (len(answers) - 1))])
        return usual if max_tokens is None else min(usual, max_tokens)


def headers_for(state: BudgetState) -> list[tuple[bytes, bytes]]:
    """What the client is told with each answer that counts."""
    used = min(0.99, int(state.utilization * 100) / 100)
    passed = next((threshold for threshold in _WARNINGS if state.utilization >= threshold), None)
    status = b"allowed" if passed is None else b"allowed_warning"
    reset = b"%d" % int(state.resets_at.timestamp())
    headers = [
        (_PREFIX + b"status", status),
        (_PREFIX + b"representative-claim", b"overage"),
        (_PREFIX + b"overage-status", status),
        (_PREFIX + b"overage-utilization", b"%.2f" % used),
        (_PREFIX + b"reset", reset),
        (_PREFIX + b"overage-reset", reset),
    ]
    if passed is not None:
        headers.append((_PREFIX + b"overage-surpassed-threshold", b"%.2f" % passed))
    return headers


def exceeded_headers(period: Period, resets_at: datetime, now: datetime) -> list[tuple[bytes, bytes]]:
    """What the client is told with the refusal: it shows our sentence and does not try again."""
    reset = b"%d" % int(resets_at.timestamp())
    return [
        (b"retry-after", b"%d" % max(1, math.ceil((resets_at - now).total_seconds()))),
        (b"x-should-retry", b"false"),
        (_PREFIX + b"status", b"rejected"),
        (_PREFIX + b"reset", reset),
        (_PREFIX + b"overage-reset", reset),
        (_PREFIX + b"overage-utilization", b"1"),
        (_PREFIX + b"overage-surpassed-threshold", b"1"),
        (_PREFIX + b"overage-period", period.encode()),
        (_PREFIX + b"overage-disabled-reason", b"org_spend_cap_reached"),
    ]


UNREADABLE_HEADERS = ((b"x-should-retry", b"false"), (_PREFIX + b"overage-disabled-reason", b"fetch_error"))


def exceeded_message(limit_nano: int, period: Period, resets_at: datetime) -> str:
    """One sentence: what happened, when it ends, what to do."""
    cents = limit_nano // _CENT
    return (
        f"Your {period} budget of ${cents // 100:,}.{cents % 100:02d} is used up; it resets on "
        f"{resets_at:%Y-%m-%d at %H:%M} {resets_at.tzname()}. Ask your administrator if you need more before then."
    )


def usage_document(spent_nano: int, state: BudgetState | None) -> dict[str, object]:
    """What the client shows under `/usage`; amounts are cents. `spent_nano` is the month's without a budget."""
    if state is None:
        extra = {"monthly_limit": None, "used_credits": round(spent_nano / _CENT, 2), "utilization": None}
        limits: list[dict[str, object]] = []
    else:
        percent = min(100, int(state.utilization * 100))
        extra = {
            "monthly_limit": round(state.limit_nano / _CENT, 2),
            "used_credits": round(state.settled_nano / _CENT, 2),
            "utilization": percent,
        }
        severity = "critical" if state.utilization >= 0.95 else "warning" if state.utilization >= 0.75 else "normal"
        limits = [
            {
                "kind": "spend",
                "group": state.period,
                "percent": percent,
                "resets_at": state.resets_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "severity": severity,
                "is_active": True,
            }
        ]
    return {"extra_usage": {"is_enabled": True, **extra, "currency": "USD"}, "limits": limits}


def nano_of(dollars: str | None) -> int | None:
    """Nano-dollars of an amount that the contract has checked."""
    return None if dollars is None else int(Decimal(dollars) * 10**9)
