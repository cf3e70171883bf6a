"""One exchange: a message request, the provider's answer, and what it cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from daemon.core.pricing import PriceSheet, price
from daemon.core.record import Attempt, Cost, Ended, UsageRecord
from daemon.core.tokens import TokenCounts
from daemon.gateway.admission import Admitted
from daemon.protocol.anthropic.meter import UsageMeter
from daemon.protocol.anthropic.request import MessageFacts
from daemon.upstreams.base import Abortable, Failure

PROVIDER = "plan"
CLIENT_LEFT_STATUS = 499  # nginx's number for it; never sent, only kept
_BYTES_PER_TOKEN = 4
_TEXT_LIMIT, _ID_LIMIT, _CLASS_LIMIT = 256, 128, 64  # as long as their columns: PostgreSQL refuses what is longer


@dataclass(slots=True)
class Exchange:
    """What is known of an exchange while it runs. Times: `started` is monotonic seconds."""

    request_id: str
    admitted: Admitted
    facts: MessageFacts
    headers: Sequence[tuple[bytes, bytes]]
    body_bytes: int
    admitted_at: datetime
    started: float
    line: Abortable = field(default_factory=Abortable)
    first_byte_ms: int | None = None


class RecordSink(Protocol):
    """Where usage records go: durable before `settle` returns."""

    async def settle(self, record: UsageRecord) -> None: ...


class Accounts:
    """Turns the end of an exchange into one usage record, priced by the model that served."""

    def __init__(
        self,
        sink: RecordSink,
        *,
        sheet: Callable[[], PriceSheet],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._sink = sink
        self._sheet = sheet
        self._now = now
        self._monotonic = monotonic

    def elapsed_ms(self, exchange: Exchange) -> int:
        return int((self._monotonic() - exchange.started) * 1000)

    async def settle_answer(
        self, exchange: Exchange, meter: UsageMeter, ended: Ended, *, status: int, upstream_request_id: str | None
    ) -> None:
        """Record an answer that has begun. What the provider did not report is estimated, and marked so."""
        tokens = meter.tokens
        estimated = not meter.exact and ended is not Ended.ERROR
        if estimated:
            tokens = _at_least(tokens, exchange.body_bytes, meter.text_bytes)
        await self._settle(
            exchange,
            tokens,
            ended,
            status=status,
            estimated=estimated,
            meter=meter,
            error_type=meter.error_type,
            upstream_request_id=upstream_request_id,
        )

    async def settle_failure(self, exchange: Exchange, failure: Failure, *, status: int, error_type: str) -> None:
        """Record that no answer came."""
        await self._settle(
            exchange, TokenCounts(), Ended.ERROR, status=status, error_type=error_type, failure=failure.kind.value
        )

    async def settle_client_left(self, exchange: Exchange) -> None:
        """Record that the client left before the answer began: the provider may have read the whole prompt."""
        tokens = _at_least(TokenCounts(), exchange.body_bytes, 0) if exchange.line.dispatched else TokenCounts()
        await self._settle(
            exchange, tokens, Ended.CLIENT_LEFT, status=CLIENT_LEFT_STATUS, estimated=exchange.line.dispatched
        )

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
        failure: str | None = None,
        upstream_request_id: str | None = None,
    ) -> None:
        duration = self.elapsed_ms(exchange)
        model = (meter.model if meter else None) or exchange.facts.model
        priced = None
        if tokens != TokenCounts():
            priced = price(
                tokens,
                sheet=self._sheet(),
                provider=PROVIDER,
                model=model,
                speed=meter.speed if meter else None,
                inference_geo=meter.inference_geo if meter else None,
            )
        principal = exchange.admitted.principal
        hints = _hints(exchange.headers)
        await self._sink.settle(
            UsageRecord(
                request_id=exchange.request_id,
                user_id=principal.user_id,
                access_key_id=principal.access_key_id,
                provider=PROVIDER,
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
                attempts=(Attempt(PROVIDER, "messages", status, failure or error_type, duration),),
                admitted_at=exchange.admitted_at,
                finished_at=self._now(),
                duration_ms=duration,
                first_byte_ms=exchange.first_byte_ms,
                error_type=error_type,
                upstream_request_id=upstream_request_id[:_ID_LIMIT] if upstream_request_id else None,
                session_id=hints.get(b"x-claude-code-session-id") or exchange.facts.session_id,
                agent_id=hints.get(b"x-claude-code-agent-id"),
                parent_agent_id=hints.get(b"x-claude-code-parent-agent-id"),
                request_class=hints.get(b"x-claude-code-request-class", "")[:_CLASS_LIMIT] or None,
                prompt_id=hints.get(b"x-claude-code-prompt-id"),
            )
        )


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
    """Claude Code's own headers that say which session, agent and prompt a request belongs to."""
    return {
        name: "".join(c for c in value.decode("latin-1") if c.isprintable())[:_TEXT_LIMIT]
        for name, value in headers
        if name.startswith(b"x-claude-code-")
    }
