"""The runaway guard: a key that does more than its limits allow is refused in the client's terms."""

from collections.abc import Callable
from uuid import UUID

from daemon.core.limits import NO_LIMITS, Recent
from daemon.core.record import UsageRecord
from daemon.gateway.answers import Denied
from daemon.services.directory import Principal

_SWEEP_AT = 10_000


class Guard:
    """What limited keys have done lately, on this replica; its part of a limit follows the number of replicas."""

    def __init__(self, *, replicas: Callable[[], int], monotonic: Callable[[], float]) -> None:
        self._replicas = replicas
        self._monotonic = monotonic
        self._recent: dict[UUID, Recent] = {}
        self.in_flight = 0  # requests of all keys, limited or not

    def enter(self, principal: Principal) -> Denied | None:
        """Let a request in, to be ended with `leave`; or say which limit is reached, and when to come back."""
        if principal.limits == NO_LIMITS:
            self.in_flight += 1
            return None
        now = self._monotonic()
        if len(self._recent) >= _SWEEP_AT:
            self._recent = {key: recent for key, recent in self._recent.items() if not recent.idle(now)}
        recent = self._recent.setdefault(principal.access_key_id, Recent())
        over = recent.check(principal.limits.shared_by(self._replicas()), now)
        if over is not None:
            message = f"This access key is limited to {over.limit}; try again in {over.retry_after} s."
            return Denied(429, "rate_limit_error", message, ((b"retry-after", b"%d" % over.retry_after),))
        recent.begin(now)
        self.in_flight += 1
        return None

    def leave(self, principal: Principal) -> None:
        """The request is over, however it ended."""
        self.in_flight -= 1
        recent = self._recent.get(principal.access_key_id)
        if recent is not None and principal.limits != NO_LIMITS:
            recent.end()

    def used(self, record: UsageRecord) -> None:
        """Count what a request took."""
        recent = self._recent.get(record.access_key_id)
        if recent is not None:
            recent.used(record.tokens.prompt + record.tokens.output, self._monotonic())
