"""The one loop over a route's legs: ask a provider, judge its answer, go on to the next one or answer the client."""

from collections.abc import Sequence

import structlog

from daemon.core.failure import Subject, of_transport, verdict
from daemon.gateway import relay
from daemon.gateway.accounts import Accounts, Exchange, session_of
from daemon.gateway.answers import Denied
from daemon.gateway.circuits import Circuits
from daemon.gateway.learned import Sessions
from daemon.gateway.ledger import LedgerUnavailable
from daemon.gateway.legs import Failed, Leg, Whole, no_answer
from daemon.gateway.relay import Held, Outgoing
from daemon.gateway.spend import Budgets
from daemon.protocol.asgi import Send
from daemon.upstreams.base import Failure, FailureKind, Reply

log = structlog.get_logger()

CIRCUIT_OPEN = "circuit_open"
STICKY = "sticky"
# Bedrock names one thing at a time that it does not take. Each repair has to have learned something new, so that this
# happens on the first request for a model and hardly ever again.
REPAIRS = 4
_MOVES_SESSIONS = (Subject.PROVIDER, Subject.CLIENT_CREDENTIAL, Subject.OUR_CREDENTIAL)


class Exchanges:
    """Runs exchanges over their legs."""

    def __init__(self, accounts: Accounts, budgets: Budgets, circuits: Circuits, sessions: Sessions) -> None:
        self._accounts = accounts
        self._budgets = budgets
        self._circuits = circuits
        self._sessions = sessions

    async def run(self, exchange: Exchange, legs: Sequence[Leg], send: Send, *, sticky: bool) -> None:
        """Serve one request; it is on the books before its client sees the end.

        Legs are tried in order. A leg whose circuit is open is left out, unless nothing else could be tried: an open
        circuit is a reason to prefer another provider, not to turn a client away. `sticky` says that the first leg is
        there because the session has moved.

        Raises:
            LedgerUnavailable: it cannot be recorded; nothing has been sent.
        """
        out = Outgoing(send, exchange)
        exchange.fallback_reason = STICKY if sticky else None
        failures: list[Failed] = []
        moved = False
        for position, leg in enumerate(legs):
            if len(legs) > 1 and not await self._circuits.allow(leg.circuits):
                self._accounts.skip(exchange, leg.tried, CIRCUIT_OPEN)
                exchange.fallback_reason = exchange.fallback_reason or CIRCUIT_OPEN
                moved = True
                continue
            failed = await self._try(exchange, leg, out, hold=position + 1 < len(legs) or bool(failures), moved=moved)
            if failed is None:
                return
            failures.append(failed)
            if exchange.left or not failed.verdict.fallback:
                break
            exchange.fallback_reason = exchange.fallback_reason or failed.verdict.kind
            moved = moved or failed.verdict.subject in _MOVES_SESSIONS
        if not failures:
            failed = await self._try(exchange, legs[0], out, hold=False, moved=False)
            if failed is None:
                return
            failures.append(failed)
        await self._answer(exchange, _best(failures), out)

    async def _try(self, exchange: Exchange, leg: Leg, out: Outgoing, *, hold: bool, moved: bool) -> Failed | None:
        """Ask one provider, again after each repair; None when the client has been served, or has left."""
        for _ in range(REPAIRS + 1):
            self._accounts.begin_attempt(exchange, leg.tried)
            failed = await self._attempt(exchange, leg, out, hold=hold, moved=moved)
            if failed is None:
                return None
            exchange.drains = None  # a client that leaves from now on ends whatever is asked next
            self._accounts.end_attempt(exchange, failed.status, failed.verdict.kind)
            if exchange.left or not leg.repair(exchange, failed):
                break
        assert failed is not None
        self._circuits.failed(leg.circuits, failed.verdict)
        log.info(
            "attempt failed",
            request_id=exchange.request_id,
            provider=leg.tried.provider,
            failure=failed.verdict.kind,
            status=failed.status,
        )
        return failed

    async def _attempt(self, exchange: Exchange, leg: Leg, out: Outgoing, *, hold: bool, moved: bool) -> Failed | None:
        denied = await self._noted(exchange, leg)
        if denied is not None:
            return Failed(leg, verdict("budget_exceeded"), denied)
        reply = await leg.open(exchange)
        if isinstance(reply, Failed):
            return reply
        if isinstance(reply, Failure):
            await self._client_left(exchange, leg)
            return None
        exchange.upstream_request_id = leg.request_id(reply)
        if relay.is_event_stream(reply):
            return await self._stream(exchange, leg, reply, out, hold=hold or reply.translator is not None, moved=moved)
        body = await relay.collect(reply)
        if isinstance(body, Failure):
            if body.kind is FailureKind.ABORTED and exchange.left:
                await self._client_left(exchange, leg)
                return None
            return no_answer(leg, body, shared=leg.shared)
        judged = leg.judge(Whole(reply, body))
        if isinstance(judged, Failed):
            return judged
        exchange.first_byte_ms = self._accounts.elapsed_ms(exchange)
        self._served(exchange, leg, moved=moved)
        await relay.whole(exchange, reply, judged, self._accounts, out, shared_credential=leg.shared)
        return None

    async def _stream(
        self, exchange: Exchange, leg: Leg, reply: Reply, out: Outgoing, *, hold: bool, moved: bool
    ) -> Failed | None:
        if hold:
            held = await relay.hold(exchange, reply, self._accounts, out)
            ended = held.end is not None or held.error_type is not None
            if ended and not held.has_content and not exchange.left:
                reply.close()
                return leg.judge_stream(held)
            reply = held
        if exchange.left:
            self._circuits.release(leg.circuits)
        else:
            self._served(exchange, leg, moved=moved)
        failure = await relay.stream(
            exchange, reply, self._accounts, out, shared_credential=leg.shared, budgets=self._budgets
        )
        if failure is not None:
            self._circuits.failed(leg.circuits, of_transport(failure.kind.value, shared_credential=leg.shared))
        return None

    async def _noted(self, exchange: Exchange, leg: Leg) -> Denied | None:
        """Reserve what the request may cost, and note it: nothing goes out that is not on the books somewhere."""
        record = self._accounts.so_far(exchange)
        outcome = await self._budgets.before(exchange, leg.tried, leg.body, record)
        if isinstance(outcome, Denied):
            return outcome
        if not outcome and not exchange.intended:
            try:
                self._accounts.checkpoint(record)
            except LedgerUnavailable:
                if not await self._budgets.note(exchange, record):
                    raise
        exchange.intended = True
        return None

    def _served(self, exchange: Exchange, leg: Leg, *, moved: bool) -> None:
        """A provider serves: its circuit closes, and a session that had to move stays with it for a while."""
        self._circuits.succeeded(leg.circuits)
        key, session = exchange.admitted.principal.access_key_id, session_of(exchange)
        place = self._sessions.find(key, session)
        if moved or (place is not None and place.provider != leg.tried.provider):
            self._sessions.moved(key, session, leg.tried.provider)

    async def _client_left(self, exchange: Exchange, leg: Leg) -> None:
        self._circuits.release(leg.circuits)
        await self._accounts.settle_client_left(exchange)

    async def _answer(self, exchange: Exchange, failed: Failed, out: Outgoing) -> None:
        """Tell the client what failed: in the provider's words where they are worth having, else in ours."""
        exchange.tried = failed.leg.tried
        if exchange.left:
            await self._accounts.settle_client_left(exchange, refused=(failed.status or 0) >= 400)
        elif isinstance(failed.answer, Held) and not out.begun:
            held = failed.answer
            shared = failed.leg.shared
            await relay.stream(exchange, held, self._accounts, out, shared_credential=shared, budgets=self._budgets)
        elif isinstance(failed.answer, Whole) and not out.begun:
            answer = failed.answer
            shared = failed.leg.shared
            await relay.whole(exchange, answer.reply, answer.body, self._accounts, out, shared_credential=shared)
        else:
            denied = failed.denied
            await self._accounts.settle_failure(exchange, status=denied.status, error_type=denied.type)
            await out.deny(denied)


def _best(failures: Sequence[Failed]) -> Failed:
    """Which failure the client hears of: Anthropic's own answer, whose wording it knows, before any other."""
    answered = [failed for failed in failures if failed.answer is not None]
    plan = [failed for failed in failures if failed.leg.tried.provider == "plan"]
    return next(iter(answered or plan or failures[-1:]))
