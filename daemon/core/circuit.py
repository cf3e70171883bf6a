"""A circuit: closed while a provider serves, open after several failures in a row, then tried with one request.

Pure: `now` is monotonic seconds, randomness is an argument. The state is a value; whoever holds it shares it.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

WINDOW_SECONDS = 60.0
PROBE_SECONDS = 120.0  # a probe that has not reported by then is forgotten
SHORTEST_SECONDS = 1.0
JITTER = 0.1


class State(StrEnum):
    """What a request may do."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Policy:
    """When a circuit opens, and for how many seconds at most."""

    threshold: int
    reset_timeout: float


@dataclass(frozen=True, slots=True)
class Circuit:
    """Failures since the last success, and until when it is open. All times are monotonic seconds."""

    failures: tuple[float, ...] = ()
    last_failure: str | None = None
    open_until: float | None = None
    reopened: int = 0  # probes that failed in a row
    probe_until: float | None = None

    def state(self, now: float) -> State:
        """Open until its time has passed, half-open from then on."""
        if self.open_until is None:
            return State.CLOSED
        return State.OPEN if now < self.open_until else State.HALF_OPEN

    def may_probe(self, now: float) -> bool:
        """Whether it is half-open and nobody is trying it."""
        return self.state(now) is State.HALF_OPEN and (self.probe_until is None or now >= self.probe_until)


CLOSED = Circuit()


def probing(circuit: Circuit, now: float) -> Circuit:
    """The circuit while one request tries it."""
    return replace(circuit, probe_until=now + PROBE_SECONDS)


def released(circuit: Circuit) -> Circuit:
    """The circuit after a probe that said nothing, because its client left."""
    return replace(circuit, probe_until=None)


def failed(
    circuit: Circuit, kind: str, *, now: float, cool_down: float | None, policy: Policy, jitter: float
) -> Circuit:
    """The circuit after a failure. `jitter` in [0, 1) keeps replicas from trying at the same moment.

    A failure while it is open changes nothing: it is an answer to a request that went out before.
    """
    if circuit.state(now) is State.OPEN:
        return circuit
    if circuit.state(now) is State.HALF_OPEN:
        reopened = circuit.reopened + 1
        until = now + _duration(cool_down, reopened, policy, jitter)
        return replace(circuit, last_failure=kind, open_until=until, reopened=reopened, probe_until=None)
    recent = (*(instant for instant in circuit.failures if now - instant < WINDOW_SECONDS), now)[-policy.threshold :]
    if len(recent) < policy.threshold:
        return replace(circuit, failures=recent, last_failure=kind)
    return Circuit(recent, kind, now + _duration(cool_down, 0, policy, jitter))


def succeeded(circuit: Circuit, now: float) -> Circuit:
    """The circuit after an answer: closed, but for one that was opened while the answer was on its way."""
    return circuit if circuit.state(now) is State.OPEN else CLOSED


def _duration(cool_down: float | None, reopened: int, policy: Policy, jitter: float) -> float:
    """What the provider named, doubled with each probe that failed, never above the reset timeout."""
    base = policy.reset_timeout if cool_down is None else max(cool_down, SHORTEST_SECONDS)
    doubled = min(base * (1 << min(reopened, 16)), policy.reset_timeout)
    return doubled * (1 - JITTER * jitter) if reopened else doubled
