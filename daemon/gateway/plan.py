"""The plan: Anthropic, with the user's own login or the company's key. The client's bytes pass as they are."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from daemon.core.failure import Verdict, of_plan_answer, of_stream_error
from daemon.gateway import relay
from daemon.gateway.accounts import Exchange, Tried, session_of
from daemon.gateway.answers import NO_RETRY, Denied
from daemon.gateway.learned import Place, Sessions
from daemon.gateway.legs import Deadlines, Failed, Whole, no_answer
from daemon.gateway.relay import Held
from daemon.protocol.asgi import Scope
from daemon.protocol.bedrock.request import Ceilings, cap
from daemon.protocol.bedrock.thinking import heal, healing_for
from daemon.protocol.headers import has_own_credential, request_headers
from daemon.store.routing import CircuitKey
from daemon.upstreams.base import Failure, FailureKind, OutboundRequest, Reply, Upstream

BETA_LIMIT = 8 * 1024
QUERY_LIMIT = 2 * 1024
NO_CREDENTIAL = Denied(
    502,
    "api_error",
    "no credential for Anthropic: sign in with Claude Code, or an operator has to set PROXY_PLAN_API_KEY",
    (NO_RETRY,),
)
BETA_TOO_LONG = Denied(400, "invalid_request_error", f"anthropic-beta: expected at most {BETA_LIMIT >> 10} KiB")


class Plan:
    """Builds requests for Anthropic."""

    def __init__(
        self,
        upstream: Upstream,
        *,
        api_key: str | None,
        deadlines: Deadlines,
        ceilings: Ceilings,
        sessions: Sessions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.upstream = upstream
        self.deadlines = deadlines
        self.ceilings = ceilings
        self.sessions = sessions
        self.clock = clock
        self._api_key = api_key

    def shared(self, scope: Scope, access_key: str) -> bool:
        """Whether the request goes out with the gateway's credential and not with the client's own."""
        return not has_own_credential(scope["headers"], access_key=access_key)

    def available(self, scope: Scope, access_key: str) -> bool:
        """Whether there is a credential to ask Anthropic with."""
        return self._api_key is not None or not self.shared(scope, access_key)

    def request(
        self, scope: Scope, path: str, access_key: str, body: bytes, timeout: float, *, betas: Sequence[str] = ()
    ) -> OutboundRequest:
        """The client's request for Anthropic; `betas` are added to its own."""
        query = scope["query_string"]
        passes = query and len(query) <= QUERY_LIMIT and b"ak_" not in query
        target = path.encode()
        headers = request_headers(scope["headers"], access_key=access_key, plan_api_key=self._api_key)
        if betas:
            headers.append((b"anthropic-beta", ",".join(betas).encode()))
        return OutboundRequest(
            method=scope["method"].encode(),
            path=target + b"?" + query if passes else target,
            headers=headers,
            body=body,
            first_byte_timeout=timeout,
            idle_timeout=self.deadlines.idle,
        )

    def leg(self, scope: Scope, path: str, exchange: Exchange, body: bytes, place: Place | None) -> "PlanLeg":
        return PlanLeg(self, scope, path, exchange, body, place)


class PlanLeg:
    """Anthropic, for one exchange."""

    tried = Tried("plan", "messages")
    drains = False  # a direct connection would end the answer too

    def __init__(
        self, plan: Plan, scope: Scope, path: str, exchange: Exchange, body: bytes, place: Place | None
    ) -> None:
        self._plan = plan
        self._scope = scope
        self._path = path
        self.body = body
        self._place = place
        self._healing = place.healing if place else None
        self._access_key = exchange.admitted.access_key
        self.shared = plan.shared(scope, self._access_key)
        own: CircuitKey = ("access_key", str(exchange.admitted.principal.access_key_id), "plan")
        self.circuits: tuple[CircuitKey, ...] = (own, ("credential", "plan", "plan")) if self.shared else (own,)

    async def open(self, exchange: Exchange) -> Reply | Failure | Failed:
        body, betas = self._healed(cap(self.body, self._plan.ceilings))
        deadlines = self._plan.deadlines
        timeout = deadlines.first_byte if exchange.facts.stream else deadlines.whole_answer
        request = self._plan.request(self._scope, self._path, self._access_key, body, timeout, betas=betas)
        reply = await self._plan.upstream.open(request, exchange.line)
        if isinstance(reply, Failure) and reply.kind is not FailureKind.ABORTED:
            return no_answer(self, reply, shared=self.shared)
        return reply

    def request_id(self, reply: Reply) -> str | None:
        return relay.header(reply, b"request-id").decode("latin-1") or None

    def judge(self, answer: Whole) -> bytes | Failed:
        reply, body = answer.reply, answer.body
        denied = relay.refuse(reply, body, shared_credential=self.shared)
        if denied is None and reply.status < 400:
            return body
        error = error_of(body) if relay.is_json(reply) else None
        verdict = of_plan_answer(
            reply.status, dict(reply.headers), error=error, shared_credential=self.shared, now=self._plan.clock()
        )
        own = Denied(reply.status, str((error or {}).get("type", "api_error")), str((error or {}).get("message", "")))
        return Failed(
            self,
            verdict,
            denied or own,
            status=reply.status,
            answer=None if denied else answer,
            text=str((error or {}).get("message", "")),
        )

    def judge_stream(self, held: Held) -> Failed:
        if held.error_type is not None:
            verdict: Verdict = of_stream_error(held.error_type, shared_credential=self.shared)
            denied = Denied(529 if verdict.kind == "overloaded" else 502, held.error_type, held.error_message)
            return Failed(self, verdict, denied, status=200, answer=held, text=held.error_message)
        failure = held.end.failure if held.end is not None else None
        cut = failure or Failure(FailureKind.CUT, "the provider's stream ended before its content began")
        failed = no_answer(self, cut, shared=self.shared)
        failed.status = held.status
        return failed

    def repair(self, exchange: Exchange, failed: Failed) -> bool:
        """Only a session that may have been elsewhere: its thinking blocks may be another provider's.

        Not every visit leaves a trace: a single turn does not move a session, and a move is forgotten in time.
        """
        if self._place is None and exchange.admitted.principal.bedrock_key is None:
            return False
        healing = healing_for(failed.text, self._healing)
        if healing is None:
            return False
        self._healing = healing
        principal = exchange.admitted.principal
        self._plan.sessions.heal(principal.access_key_id, session_of(exchange), "plan", healing)
        return True

    def _healed(self, body: bytes) -> tuple[bytes, Sequence[str]]:
        if self._healing is None:
            return body, ()
        document: dict[str, Any] = orjson.loads(body)
        betas = heal(document, (), self._healing)
        return orjson.dumps(document), betas


def error_of(body: bytes) -> Mapping[str, object] | None:
    """The error object of a body in Anthropic's shape, None when it has none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {} if isinstance(document, dict) else None
