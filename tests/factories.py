"""Values for tests, with defaults that are valid and plain."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from daemon.core.record import Attempt, Cost, Ended, UsageRecord
from daemon.core.tokens import TokenCounts

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def usage_record(**changes: Any) -> UsageRecord:
    """A finished streaming exchange; `changes` replace fields."""
    fields: dict[str, Any] = {
        "request_id": "req_1",
        "user_id": UUID(int=1),
        "access_key_id": UUID(int=2),
        "provider": "plan",
        "model_requested": "claude-opus-5-5",
        "model_served": "claude-opus-5-5",
        "stream": True,
        "status": 200,
        "ended": Ended.FINISHED,
        "estimated": False,
        "suspect": False,
        "tokens": TokenCounts(input=10, output=20, cache_write_5m=3, cache_write_1h=2, cache_read=5, thinking=4),
        "cost": Cost(40_000, 400_000, 15_000, 16_000, 1_000),
        "price": None,
        "attempts": (Attempt("plan", "messages", 200, None, 12),),
        "admitted_at": NOON,
        "finished_at": NOON,
        "duration_ms": 12,
        "first_byte_ms": 3,
    }
    return UsageRecord(**(fields | changes))
