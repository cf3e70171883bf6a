"""Limits of an access key, against runaways: requests and tokens in a minute, requests at once. Off unless set."""

import math
from collections import deque
from dataclasses import dataclass, field

WINDOW_SECONDS = 60.0
_AT_ONCE_RETRY = 2  # seconds: nobody knows when one of the others ends


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one key may do; None: as much as it likes."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None

    def shared_by(self, replicas: int) -> "KeyLimits":
        """One replica's part, when a load balancer spreads requests over several."""
        return KeyLimits(
            _part(self.requests_per_minute, replicas),
            _part(self.tokens_per_minute, replicas),
            _part(self.concurrent_requests, replicas),
        )


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Over:
    """A limit is reached: which one, and in how many seconds the next request has a chance."""

    limit: str
    retry_after: int


@dataclass(slots=True)
class Recent:
    """What a key has done within the last minute. Times are monotonic seconds."""

    requests: deque[float] = field(default_factory=deque)
    tokens: deque[tuple[float, int]] = field(default_factory=deque)
    token_sum: int = 0
    running: int = 0

    def check(self, limits: KeyLimits, now: float) -> Over | None:
        """The limit that stands in the way of one more request."""
        self._forget(now)
        if limits.concurrent_requests is not None and self.running >= limits.concurrent_requests:
            return Over(f"{limits.concurrent_requests} requests at once", _AT_ONCE_RETRY)
        if limits.requests_per_minute is not None and len(self.requests) >= limits.requests_per_minute:
            oldest = self.requests[0] if self.requests else now
            return Over(f"{limits.requests_per_minute} requests per minute", _until(oldest, now))
        if limits.tokens_per_minute is not None and self.token_sum >= limits.tokens_per_minute:
            oldest = self.tokens[0][0] if self.tokens else now
            return Over(f"{limits.tokens_per_minute} tokens per minute", _until(oldest, now))
        return None

    def begin(self, now: float) -> None:
        """A request is let in."""
        self.requests.append(now)
        self.running += 1

    def end(self) -> None:
        """It is over."""
        self.running -= 1

    def used(self, tokens: int, now: float) -> None:
        """It took so many tokens, prompt and answer."""
        self.tokens.append((now, tokens))
        self.token_sum += tokens

    def idle(self, now: float) -> bool:
        """Whether there is nothing left to remember."""
        self._forget(now)
        return not (self.running or self.requests or self.tokens)

    def _forget(self, now: float) -> None:
        while self.requests and now - self.requests[0] >= WINDOW_SECONDS:
            self.requests.popleft()
        while self.tokens and now - self.tokens[0][0] >= WINDOW_SECONDS:
            self.token_sum -= self.tokens.popleft()[1]


def _part(limit: int | None, replicas: int) -> int | None:
    return None if limit is None else math.ceil(limit / max(1, replicas))


def _until(oldest: float, now: float) -> int:
    return max(1, math.ceil(oldest + WINDOW_SECONDS - now))
