"""The data plane: raw ASGI, one function a path. Authentication comes before the body, always."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from daemon.core.identity import mask
from daemon.core.strategy import NoRoute, Provider, plan_route
from daemon.gateway import relay
from daemon.gateway.accounts import Accounts, Exchange, session_of
from daemon.gateway.admission import Admission, Admitted
from daemon.gateway.answers import Denied, send_denied, send_json, send_whole
from daemon.gateway.bedrock import CANNOT_COUNT, NO_KEY, Bedrock
from daemon.gateway.bodies import BodyReader, ClientLeft
from daemon.gateway.exchange import Exchanges
from daemon.gateway.guard import Guard
from daemon.gateway.learned import Sessions
from daemon.gateway.ledger import LedgerUnavailable
from daemon.gateway.legs import Leg
from daemon.gateway.plan import BETA_LIMIT, BETA_TOO_LONG, NO_CREDENTIAL, Plan
from daemon.observability.tasks import spawn
from daemon.protocol.anthropic.request import BadRequest, inspect
from daemon.protocol.asgi import Receive, Scope, Send
from daemon.protocol.headers import response_headers
from daemon.services.directory import Principal
from daemon.upstreams.base import Abortable, Failure

NOT_FOUND = Denied(404, "not_found_error", "no such path")
_COUNT = "/v1/messages/count_tokens"


@dataclass(frozen=True, slots=True)
class _Call:
    """One request on its way through."""

    request_id: str
    scope: Scope
    receive: Receive
    send: Send
    path: str
    admitted: Admitted


class DataPlane:
    """The endpoints Claude Code uses, at the root and under `/ak/{access_key}`."""

    def __init__(
        self,
        *,
        admission: Admission,
        accounts: Accounts,
        exchanges: Exchanges,
        sessions: Sessions,
        guard: Guard,
        plan: Plan,
        bedrock: Bedrock,
        bodies: BodyReader,
        usage: Callable[[Principal], Awaitable[bytes]],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        new_request_id: Callable[[], str],
    ) -> None:
        self._admission = admission
        self._accounts = accounts
        self._exchanges = exchanges
        self._sessions = sessions
        self._guard = guard
        self._plan = plan
        self._bedrock = bedrock
        self._bodies = bodies
        self._usage = usage
        self._now = now
        self._monotonic = monotonic
        self._new_request_id = new_request_id
        self._routes: dict[str, tuple[str, Callable[[_Call], Awaitable[Denied | None]]]] = {
            "/v1/messages": ("POST", self._messages),
            _COUNT: ("POST", self._pass_through),
            "/v1/models": ("GET", self._pass_through),
            "/api/oauth/usage": ("GET", self._oauth_usage),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._new_request_id()
        path, path_key = _split_key(scope)
        method = scope["method"]
        if path == "/api/hello" and method in ("HEAD", "GET"):
            await send_whole(send, 200, [(b"request-id", request_id.encode())], b"")
            return
        admitted = await self._admission.admit(path_key, scope["headers"])
        if isinstance(admitted, Denied):
            await send_denied(send, admitted, request_id)
            return
        expected, endpoint = self._routes.get(path) or (("GET", self._pass_through) if _is_model(path) else ("", None))
        if endpoint is None:
            denied: Denied | None = NOT_FOUND
        elif method != expected:
            denied = Denied(
                405, "invalid_request_error", f"method: expected {expected}", ((b"allow", expected.encode()),)
            )
        else:
            try:
                denied = await endpoint(_Call(request_id, scope, receive, send, path, admitted))
            except ClientLeft:
                return
        if denied:
            await send_denied(send, denied, request_id)

    async def _messages(self, call: _Call) -> Denied | None:
        denied = self._guard.enter(call.admitted.principal)
        if denied is not None:
            return denied
        try:
            body = await self._bodies.read(call.receive, call.scope["headers"])
            if isinstance(body, Denied):
                return body
            try:
                return await self._exchange(call, body)
            finally:
                self._bodies.release(body)
        finally:
            self._guard.leave(call.admitted.principal)

    async def _exchange(self, call: _Call, body: bytes) -> Denied | None:
        facts = inspect(body)
        if isinstance(facts, BadRequest):
            return Denied(400, "invalid_request_error", facts.message)
        if _betas_too_long(call.scope):
            return BETA_TOO_LONG
        exchange = Exchange(
            request_id=call.request_id,
            admitted=call.admitted,
            facts=facts,
            headers=call.scope["headers"],
            body_bytes=len(body),
            admitted_at=self._now(),
            started=self._monotonic(),
        )
        legs = self._legs(call, exchange, body)
        if isinstance(legs, Denied):
            return legs
        watcher = spawn(_watch(call.receive, exchange.leave), name="client watcher")
        try:
            await self._exchanges.run(exchange, legs[0], call.send, sticky=legs[1])
        except LedgerUnavailable:
            return relay.UNRECORDED
        except asyncio.CancelledError:  # the server gives up on us at the end of its drain
            exchange.line.abort()
            await asyncio.shield(self._accounts.settle_client_left(exchange))
            raise
        except Exception:  # our own fault: a reservation, or an intent, would outlive the request otherwise
            exchange.line.abort()
            with suppress(LedgerUnavailable):
                await self._accounts.settle_broken(exchange)
            raise
        finally:
            watcher.cancel()
            exchange.end()
        return None

    def _legs(self, call: _Call, exchange: Exchange, body: bytes) -> tuple[list[Leg], bool] | Denied:
        """The providers for a request, in order, and whether the session's move decided the first one."""
        principal = call.admitted.principal
        place = self._sessions.find(principal.access_key_id, session_of(exchange))
        available = self._available(call)
        natural = plan_route(principal.strategy, available=available, sticky=None)
        route = plan_route(principal.strategy, available=available, sticky=self._sessions.sticky(place))
        if isinstance(natural, NoRoute) or isinstance(route, NoRoute):
            return NO_CREDENTIAL if isinstance(natural, NoRoute) and "plan" in natural.wanted else NO_KEY
        legs: list[Leg] = []
        for provider in route.providers:
            if provider == "plan":
                legs.append(self._plan.leg(call.scope, call.path, exchange, body, place))
            elif principal.bedrock_key is not None:
                legs.append(self._bedrock.leg(exchange, body, principal.bedrock_key, place))
        return legs, route.providers[0] != natural.providers[0]

    def _available(self, call: _Call) -> list[Provider]:
        available: list[Provider] = []
        if self._plan.available(call.scope, call.admitted.access_key):
            available.append("plan")
        if call.admitted.principal.bedrock_key is not None:
            available.append("bedrock")
        return available

    async def _pass_through(self, call: _Call) -> Denied | None:
        """Counting tokens and listing models: never metered, never billed."""
        body = await self._bodies.read(call.receive, call.scope["headers"])
        if isinstance(body, Denied):
            return body
        line = Abortable()
        watcher = spawn(_watch(call.receive, line.abort), name="client watcher")
        try:
            principal = call.admitted.principal
            if principal.strategy == "bedrock_only" or not self._plan.available(call.scope, call.admitted.access_key):
                return await self._from_bedrock(call, body, line)
            return await self._from_plan(call, body, line)
        finally:
            self._bodies.release(body)
            watcher.cancel()

    async def _from_plan(self, call: _Call, body: bytes, line: Abortable) -> Denied | None:
        if _betas_too_long(call.scope):
            return BETA_TOO_LONG
        key = call.admitted.access_key
        request = self._plan.request(call.scope, call.path, key, body, self._plan.deadlines.first_byte)
        reply = await self._plan.upstream.open(request, line)
        answer = reply if isinstance(reply, Failure) else await relay.collect(reply)
        if isinstance(reply, Failure) or isinstance(answer, Failure):
            failure = reply if isinstance(reply, Failure) else answer
            assert isinstance(failure, Failure)
            return None if line.aborted else Denied(502, "api_error", failure.detail)
        shared = self._plan.shared(call.scope, key)
        denied = relay.refuse(reply, answer, shared_credential=shared)
        if denied is None:
            headers = response_headers(reply.headers, shared_credential=shared)
            headers += [(b"request-id", call.request_id.encode()), (b"x-proxy-provider", b"plan")]
            upstream_id = relay.header(reply, b"request-id")
            if upstream_id:
                headers.append((b"x-proxy-upstream-request-id", upstream_id))
            await send_whole(call.send, reply.status, headers, answer)
        return denied

    async def _from_bedrock(self, call: _Call, body: bytes, line: Abortable) -> Denied | None:
        """Bedrock counts tokens for some models, and has no list of models: ours is what can be asked for."""
        key = call.admitted.principal.bedrock_key
        if key is None:
            return NO_CREDENTIAL if call.admitted.principal.strategy != "bedrock_only" else NO_KEY
        if call.path == "/v1/models":
            answer: bytes | Denied = self._bedrock.model_list()
        elif call.path == _COUNT:
            facts = inspect(body)
            if isinstance(facts, BadRequest):
                return Denied(400, "invalid_request_error", facts.message)
            answer = await self._bedrock.count_tokens(body, facts.model, key, line)
        else:
            return CANNOT_COUNT if call.path == _COUNT else NOT_FOUND
        if isinstance(answer, Denied):
            return answer
        await send_json(call.send, 200, answer, call.request_id, headers=((b"x-proxy-provider", b"bedrock"),))
        return None

    async def _oauth_usage(self, call: _Call) -> Denied | None:
        body = await self._usage(call.admitted.principal)
        await send_json(call.send, 200, body, call.request_id, headers=((b"cache-control", b"no-store"),))
        return None


def is_data_path(path: str) -> bool:
    """Whether a path belongs to the data plane."""
    return path.startswith(("/ak/", "/v1/", "/api/hello", "/api/oauth/"))


def _betas_too_long(scope: Scope) -> bool:
    return sum(len(value) for name, value in scope["headers"] if name == b"anthropic-beta") > BETA_LIMIT


def _is_model(path: str) -> bool:
    """`/v1/models/{id}`, with an id that needs no escaping."""
    name = path.removeprefix("/v1/models/")
    return name != path and name != "" and all(c.isalnum() or c in "-_.:@" for c in name)


def _split_key(scope: Scope) -> tuple[str, str | None]:
    """Path without the access key, and the key. The scope keeps a masked path, for whoever logs it."""
    path: str = scope["path"]
    if not path.startswith("/ak/"):
        return path, None
    key, slash, rest = path[4:].partition("/")
    scope["path"] = f"/ak/{mask(key)}{slash}{rest}"
    scope["raw_path"] = scope["path"].encode()
    return slash + rest, unquote(key)


async def _watch(receive: Receive, leave: Callable[[], None]) -> None:
    """Say so when the client leaves."""
    with suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
        leave()
