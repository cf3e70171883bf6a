"""What a provider can answer: values, never exceptions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from daemon.protocol.bedrock.stream import Translator

Headers = Sequence[tuple[bytes, bytes]]


class FailureKind(StrEnum):
    """Why no answer, or no complete answer, came."""

    CONNECT = "connect"  # refused, unreachable, name not resolved, TLS refused
    CONNECT_TIMEOUT = "connect_timeout"
    WRITE_TIMEOUT = "write_timeout"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    CUT = "cut"  # the connection ended before the answer did
    PROTOCOL = "protocol"  # not HTTP/1.1, or beyond our limits
    ABORTED = "aborted"  # we closed it: the client has gone
    CREDENTIAL = "credential"  # our credential could not be had: KMS or STS is away


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer. `detail` is safe to show: it names host and cause, never a credential."""

    kind: FailureKind
    detail: str


@dataclass(frozen=True, slots=True)
class BodyEnd:
    """The end of a body: complete when `failure` is None."""

    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """A request as it will go out. `path` is an absolute path with query; host, content-length and connection
    headers are the client's business and must not be among `headers`."""

    method: bytes
    path: bytes
    headers: Headers
    body: bytes
    first_byte_timeout: float
    idle_timeout: float


class Reply(Protocol):
    """A provider's answer, its body still arriving."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Headers:
        """As received, names in lower case."""
        ...

    @property
    def translator(self) -> Translator | None:
        """What turns the provider's bytes into the client's, and has read them; None when they pass as they are."""
        ...

    async def read(self, quiet: float | None = None) -> bytes | BodyEnd:
        """All bytes that have arrived since the last call, waiting for at least one; `BodyEnd` at the end, and for ever
        after it. With `quiet`, no bytes at all when none have arrived for so many seconds. Not reading pushes back on
        the provider: at most 256 KiB wait here."""
        ...

    def close(self) -> None:
        """Give the answer up, and its connection with it. Harmless after the end."""
        ...


class Abortable:
    """Lets one task end what another one waits for, from before the answer's head until its last byte."""

    __slots__ = ("_abort", "aborted")

    def __init__(self) -> None:
        self.aborted = False
        self._abort: Callable[[], None] | None = None

    @property
    def dispatched(self) -> bool:
        """Whether a request has been handed to a connection."""
        return self._abort is not None

    def attach(self, abort: Callable[[], None]) -> None:
        """Name what `abort` has to call; called at once when the abort came first."""
        self._abort = abort
        if self.aborted:
            abort()

    def abort(self) -> None:
        """Close the connection now: whoever reads gets kind `aborted`. Harmless after the end."""
        self.aborted = True
        if self._abort is not None:
            self._abort()


class Upstream(Protocol):
    """One provider's base URL with its connection pool."""

    async def open(self, request: OutboundRequest, line: Abortable) -> Reply | Failure:
        """Send the request, return when the answer's head has arrived. When cancelled, closes the connection."""
        ...

    async def aclose(self) -> None: ...
