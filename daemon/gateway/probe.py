"""One small request with a Bedrock key, on an operator's behalf: the same path as any other, and on the books."""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from daemon.core.record import UsageRecord
from daemon.gateway.accounts import Accounts, Exchange, RecordSink
from daemon.gateway.admission import Admitted
from daemon.gateway.bedrock import Bedrock
from daemon.gateway.exchange import Exchanges
from daemon.gateway.plan import error_of
from daemon.gateway.routing import Routing
from daemon.gateway.spend import Budgets
from daemon.protocol.anthropic.request import MessageFacts
from daemon.protocol.asgi import Message
from daemon.services.bedrock_keys import ProbeResult
from daemon.services.directory import Directory
from daemon.services.errors import NotFound

MODEL = "claude-haiku-5-5"  # the cheapest
_BODY = orjson.dumps({"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": "Say ok."}]})


class BedrockProbe:
    """Tries Bedrock keys."""

    def __init__(
        self,
        directory: Directory,
        bedrock: Bedrock,
        routing: Routing,
        sink: RecordSink,
        budgets: Budgets,
        *,
        new_accounts: Callable[[RecordSink], Accounts],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        new_request_id: Callable[[], str],
    ) -> None:
        self._directory = directory
        self._bedrock = bedrock
        self._routing = routing
        self._sink = sink
        self._budgets = budgets
        self._new_accounts = new_accounts
        self._now = now
        self._monotonic = monotonic
        self._new_request_id = new_request_id

    async def __call__(self, access_key_id: UUID) -> ProbeResult:
        """Send the request, and say how it went.

        Raises:
            NotFound: the key is not usable: it, or its user, is not active.
        """
        principal = await self._directory.of_access_key(access_key_id)
        if principal is None or principal.bedrock_key is None:
            raise NotFound("the access key, or its user, is not active, or it has no Bedrock key")
        books = _Books(self._sink)
        exchange = Exchange(
            request_id=self._new_request_id(),
            admitted=Admitted(principal, ""),
            facts=MessageFacts(MODEL, stream=False, max_tokens=16, session_id=None),
            headers=(),
            body_bytes=len(_BODY),
            admitted_at=self._now(),
            started=self._monotonic(),
        )
        leg = self._bedrock.leg(exchange, _BODY, principal.bedrock_key, None)
        leg.circuits = ()  # a test neither waits for a circuit nor opens one that requests would have to wait for
        answer = _Answer()
        exchanges = Exchanges(self._new_accounts(books), self._budgets, self._routing.circuits, self._routing.sessions)
        await exchanges.run(exchange, [leg], answer, sticky=False)
        record = books.record
        assert record is not None
        ok = answer.status == 200
        error = None if ok else error_of(bytes(answer.body))
        return ProbeResult(
            ok=ok,
            model=MODEL,
            bedrock_model=exchange.tried.model,
            route=exchange.tried.route,
            status=answer.status,
            message=None if ok else str((error or {}).get("message", "no answer")),
            cost_nano_usd=record.cost.total_nano,
            duration_ms=record.duration_ms,
            request_id=exchange.request_id,
        )


class _Books:
    """Passes the record on, and remembers it."""

    def __init__(self, sink: RecordSink) -> None:
        self._sink = sink
        self.record: UsageRecord | None = None

    async def settle(self, record: UsageRecord) -> None:
        self.record = record
        await self._sink.settle(record)

    def intend(self, record: UsageRecord) -> None:
        self._sink.intend(record)


class _Answer:
    """The client's end of the exchange."""

    def __init__(self) -> None:
        self.status: Any = None
        self.body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")
