"""The books of one exchange: who asked, what was tried, what it cost. One usage record comes out, whatever happened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from daemon.core.pricing import PriceSheet, price
from daemon.core.record import Attempt, Cost, Ended, UsageRecord
from daemon.core.strategy import Provider
from daemon.core.tokens import TokenCounts
from daemon.gateway.admission import Admitted
from daemon.protocol.anthropic.meter import UsageMeter
from daemon.protocol.anthropic.request import MessageFacts
from daemon.upstreams.base import Abortable

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from daemon.gateway.spend import Reservation

CLIENT_LEFT_STATUS = 499  # nginx's number for it; never sent, only kept
_BYTES_PER_TOKEN = 4
_TEXT_LIMIT, _ID_LIMIT, _CLASS_LIMIT = 256, 128, 64  # as long as their columns: PostgreSQL refuses what is longer


@dataclass(frozen=True, slots=True)
class Tried:
    """A provider that is being asked: by which route, for which model of its own, at whose price.

    `model` is None where the provider takes the client's own name; `price_model` is used when the provider's answer
    names a model that has no price.
    """

    provider: Provider
    route: str
    model: str | None = None
    price_model: str | None = None
    price_region: str = "global"


class Drains:
    """Answers that are read to their end for the books alone: at most so many at once."""

    def __init__(self, limit: int = 64) -> None:
        self._free = limit

    def take(self) -> bool:
        """Whether one more answer may be read on; it has to be given back."""
        if not self._free:
            return False
        self._free -= 1
        return True

    def give_back(self) -> None:
        self._free += 1


@dataclass(slots=True, eq=False)
class Exchange:
    """What is known of an exchange while it runs. Times: `started` is monotonic seconds."""

    request_id: str
    admitted: Admitted
    facts: MessageFacts
    headers: Sequence[tuple[bytes, bytes]]
    body_bytes: int
    admitted_at: datetime
    started: float
    tried: Tried = field(default_factory=lambda: Tried("plan", "messages"))
    line: Abortable = field(default_factory=Abortable)
    attempts: list[Attempt] = field(default_factory=list)
    attempt_started: float | None = None
    fallback_reason: str | None = None
    first_byte_ms: int | None = None
    upstream_request_id: str | None = None
    reservation: "Reservation | None" = None
    budget_headers: tuple[tuple[bytes, bytes], ...] = ()
    intended: bool = False  # noted, in the journal or the store, before it went out
    drains: Drains | None = None  # set while an answer is worth reading to its end without its client
    drained: Drains | None = None
    left: bool = False

    def leave(self) -> None:
        """The client has gone: what it no longer waits for is ended, unless the provider bills it anyway."""
        self.left = True
        if self.drains is not None and self.drains.take():
            self.drained = self.drains
        else:
            self.line.abort()

    def end(self) -> None:
        """Nothing is read for this exchange any more."""
        if self.drained is not None:
            self.drained.give_back()
            self.drained = None


class RecordSink(Protocol):
    """Where usage records go: durable before `settle` returns."""

    async def settle(self, record: UsageRecord) -> None: ...

    def intend(self, record: UsageRecord) -> None:
        """Note a request that is about to go out, or how far it is: if no more comes, this is its record."""
        ...


class Accounts:
    """Turns the end of an exchange into one usage record, priced by the model that served."""

    def __init__(
        self,
        sink: RecordSink,
        *,
        sheet: Callable[[], PriceSheet],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        on_settled: Callable[[UsageRecord], None] = lambda record: None,
        on_unpriced: Callable[[str, str], None] = lambda provider, model: None,
    ) -> None:
        self._sink = sink
        self._on_settled = on_settled
        self._on_unpriced = on_unpriced
        self._sheet = sheet
        self._now = now
        self._monotonic = monotonic

    def elapsed_ms(self, exchange: Exchange) -> int:
        return int((self._monotonic() - exchange.started) * 1000)

    def begin_attempt(self, exchange: Exchange, tried: Tried) -> None:
        """A provider is asked from now on."""
        exchange.tried = tried
        exchange.attempt_started = self._monotonic()

    def end_attempt(self, exchange: Exchange, status: int | None, failure: str | None) -> None:
        """What came of the attempt that is under way; nothing when none is."""
        if exchange.attempt_started is None:
            return
        duration = int((self._monotonic() - exchange.attempt_started) * 1000)
        exchange.attempt_started = None
        tried = exchange.tried
        exchange.attempts.append(Attempt(tried.provider, tried.route, status, failure, duration, tried.model))

    def skip(self, exchange: Exchange, tried: Tried, reason: str) -> None:
        """A provider was not asked."""
        exchange.attempts.append(Attempt(tried.provider, tried.route, None, reason, 0, tried.model))

    async def settle_answer(
        self, exchange: Exchange, meter: UsageMeter, ended: Ended, *, status: int, failure: str | None = None
    ) -> None:
        """Record an answer that has begun. What the provider did not report is estimated, and marked so."""
        tokens = meter.tokens
        estimated = not meter.exact and ended is not Ended.ERROR
        if estimated:
            tokens = _at_least(tokens, exchange.body_bytes, meter.text_bytes)
        self.end_attempt(exchange, status, failure or meter.error_type)
        await self._settle(
            exchange, tokens, ended, status=status, estimated=estimated, meter=meter, error_type=meter.error_type
        )

    async def settle_failure(self, exchange: Exchange, *, status: int, error_type: str) -> None:
        """Record that no answer came."""
        self.end_attempt(exchange, None, error_type)
        await self._settle(exchange, TokenCounts(), Ended.ERROR, status=status, error_type=error_type)

    async def settle_client_left(self, exchange: Exchange, *, refused: bool = False) -> None:
        """Record that the client left before the answer began: unless the provider refused, it may have read it all."""
        dispatched = exchange.line.dispatched and not refused
        tokens = _at_least(TokenCounts(), exchange.body_bytes, 0) if dispatched else TokenCounts()
        self.end_attempt(exchange, None, "client_left")
        await self._settle(exchange, tokens, Ended.CLIENT_LEFT, status=CLIENT_LEFT_STATUS, estimated=dispatched)

    async def settle_broken(self, exchange: Exchange) -> None:
        """Record that we failed ourselves, at the cost of what went out. A record that is there already stays."""
        dispatched = exchange.line.dispatched
        tokens = _at_least(TokenCounts(), exchange.body_bytes, 0) if dispatched else TokenCounts()
        self.end_attempt(exchange, None, "gateway_failed")
        await self._settle(exchange, tokens, Ended.ERROR, status=500, estimated=dispatched, error_type="api_error")

    def so_far(self, exchange: Exchange, meter: UsageMeter | None = None) -> UsageRecord:
        """The record that stands in for an exchange, should this replica die now."""
        tokens = _at_least(
            meter.tokens if meter else TokenCounts(), exchange.body_bytes, meter.text_bytes if meter else 0
        )
        return self._record(exchange, tokens, Ended.ORPHANED, status=0, estimated=True, meter=meter)

    def checkpoint(self, record: UsageRecord) -> None:
        """Note how far an exchange is, by the record of `so_far`.

        Raises:
            LedgerUnavailable: nothing can be noted anywhere.
        """
        self._sink.intend(record)

    async def _settle(
        self,
        exchange: Exchange,
        tokens: TokenCounts,
        ended: Ended,
        *,
        status: int,
        estimated: bool = False,
        meter: UsageMeter | None = None,
        error_type: str | None = None,
    ) -> None:
        record = self._record(
            exchange, tokens, ended, status=status, estimated=estimated, meter=meter, error_type=error_type
        )
        self._on_settled(record)
        await self._sink.settle(record)

    def _record(
        self,
        exchange: Exchange,
        tokens: TokenCounts,
        ended: Ended,
        *,
        status: int,
        estimated: bool = False,
        meter: UsageMeter | None = None,
        error_type: str | None = None,
    ) -> UsageRecord:
        tried = exchange.tried
        sheet = self._sheet().on(exchange.admitted_at.date())
        model = (meter.model if meter else None) or tried.price_model or exchange.facts.model
        if tried.price_model is not None and not sheet.knows(tried.provider, model):
            model = tried.price_model
        priced = None
        if tokens != TokenCounts():
            if not sheet.knows(tried.provider, model):
                self._on_unpriced(tried.provider, model[:_TEXT_LIMIT])
            priced = price(
                tokens,
                sheet=sheet,
                provider=tried.provider,
                model=model,
                region=tried.price_region,
                speed=meter.speed if meter else None,
                inference_geo=meter.inference_geo if meter else None,
            )
        principal = exchange.admitted.principal
        hints = _hints(exchange.headers)
        upstream_id = exchange.upstream_request_id
        return UsageRecord(
            request_id=exchange.request_id,
            user_id=principal.user_id,
            access_key_id=principal.access_key_id,
            provider=tried.provider,
            model_requested=exchange.facts.model,
            model_served=model[:_TEXT_LIMIT],
            stream=exchange.facts.stream,
            status=status,
            ended=ended,
            estimated=estimated or (priced is not None and priced.estimated),
            suspect=meter.suspect if meter else False,
            tokens=tokens,
            cost=priced.cost if priced else Cost(),
            price=priced.snapshot if priced else None,
            attempts=tuple(exchange.attempts),
            admitted_at=exchange.admitted_at,
            finished_at=self._now(),
            duration_ms=self.elapsed_ms(exchange),
            first_byte_ms=exchange.first_byte_ms,
            fallback_reason=exchange.fallback_reason,
            error_type=error_type,
            upstream_request_id=upstream_id[:_ID_LIMIT] if upstream_id else None,
            session_id=session_of(exchange),
            agent_id=hints.get(b"x-claude-code-agent-id"),
            parent_agent_id=hints.get(b"x-claude-code-parent-agent-id"),
            request_class=hints.get(b"x-claude-code-request-class", "")[:_CLASS_LIMIT] or None,
            prompt_id=hints.get(b"x-claude-code-prompt-id"),
        )


def session_of(exchange: Exchange) -> str | None:
    """The client's session: by its own header, else by what it writes into the request's metadata."""
    named = next((value for name, value in exchange.headers if name == b"x-claude-code-session-id"), None)
    return (_printable(named) if named is not None else None) or exchange.facts.session_id


def _at_least(tokens: TokenCounts, body_bytes: int, text_bytes: int) -> TokenCounts:
    """Counts of an answer that was not reported to its end: four bytes a token, never below what was reported."""
    prompt = 0 if tokens.prompt else body_bytes // _BYTES_PER_TOKEN
    return TokenCounts(
        input=tokens.input + prompt,
        output=max(tokens.output, text_bytes // _BYTES_PER_TOKEN),
        cache_write_5m=tokens.cache_write_5m,
        cache_write_1h=tokens.cache_write_1h,
        cache_read=tokens.cache_read,
        thinking=tokens.thinking,
    )


def _hints(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """Claude Code's own headers that say which agent and prompt a request belongs to."""
    return {name: _printable(value) for name, value in headers if name.startswith(b"x-claude-code-")}


def _printable(value: bytes) -> str:
    return "".join(c for c in value.decode("latin-1") if c.isprintable())[:_TEXT_LIMIT]
