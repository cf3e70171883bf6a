"""A leg: one provider as one request sees it. What it asks, and what its answers mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from daemon.core.failure import Verdict, of_transport
from daemon.gateway.accounts import Exchange, Tried
from daemon.gateway.answers import Denied
from daemon.gateway.relay import Held
from daemon.store.routing import CircuitKey
from daemon.upstreams.base import Failure, FailureKind, Reply

_TIMEOUTS = (
    FailureKind.CONNECT_TIMEOUT,
    FailureKind.FIRST_BYTE_TIMEOUT,
    FailureKind.IDLE_TIMEOUT,
    FailureKind.WRITE_TIMEOUT,
)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds until a stream begins, until a whole answer begins, and between two bytes of either."""

    first_byte: float
    whole_answer: float
    idle: float


@dataclass(slots=True)
class Whole:
    """A provider's answer that is one document."""

    reply: Reply
    body: bytes


@dataclass(slots=True)
class Failed:
    """An attempt without an answer that serves the client.

    `denied` is what the client gets of it in our words; `answer`, where there is one, in the provider's. `text` is the
    provider's message, to learn from.
    """

    leg: "Leg"
    verdict: Verdict
    denied: Denied
    status: int | None = None
    answer: Whole | Held | None = None
    text: str = ""


class Leg(Protocol):
    """One provider, for one exchange."""

    @property
    def tried(self) -> Tried:
        """What is asked; a repair may change it."""
        ...

    @property
    def body(self) -> bytes:
        """The client's request."""
        ...

    @property
    def circuits(self) -> Sequence[CircuitKey]: ...

    @property
    def shared(self) -> bool:
        """Whether the credential is the gateway's, so that its limits are not this client's business."""
        ...

    @property
    def drains(self) -> bool:
        """Whether the provider bills the whole answer even when nobody reads it."""
        ...

    async def open(self, exchange: Exchange) -> Reply | Failure | Failed:
        """Send the request; a plain `Failure` only when the client has left."""
        ...

    def request_id(self, reply: Reply) -> str | None:
        """The provider's own id of an answer."""
        ...

    def judge(self, answer: Whole) -> bytes | Failed:
        """The body for the client, or why the answer is no success."""
        ...

    def judge_stream(self, held: Held) -> Failed:
        """Why a stream ended before its content began."""
        ...

    def repair(self, exchange: Exchange, failed: Failed) -> bool:
        """Whether the same provider may take the request after what this failure has taught."""
        ...


def no_answer(leg: Leg, failure: Failure, *, shared: bool) -> Failed:
    """The connection failed, ended or was silent."""
    status, kind = (504, "timeout_error") if failure.kind in _TIMEOUTS else (502, "api_error")
    verdict = of_transport(failure.kind.value, shared_credential=shared)
    return Failed(leg, verdict, Denied(status, kind, failure.detail), text=failure.detail)
