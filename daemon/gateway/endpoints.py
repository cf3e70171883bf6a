"""The data plane: raw ASGI, one function a path. Authentication comes before the body, always."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from daemon.core.identity import mask
from daemon.gateway import relay
from daemon.gateway.admission import Admission, Admitted
from daemon.gateway.answers import NO_RETRY, Denied, send_denied, send_json, send_whole
from daemon.gateway.bodies import BodyReader, ClientLeft
from daemon.gateway.exchange import Accounts, Exchange
from daemon.gateway.ledger import LedgerUnavailable
from daemon.observability.tasks import spawn
from daemon.protocol.anthropic.request import BadRequest, inspect
from daemon.protocol.asgi import Receive, Scope, Send
from daemon.protocol.headers import has_own_credential, request_headers
from daemon.services.directory import Principal
from daemon.upstreams.base import Abortable, Failure, FailureKind, OutboundRequest, Upstream

BETA_LIMIT = 8 * 1024
QUERY_LIMIT = 2 * 1024
NOT_FOUND = Denied(404, "not_found_error", "no such path")
NO_CREDENTIAL = Denied(
    502,
    "api_error",
    "no credential for Anthropic: sign in with Claude Code, or an operator has to set PROXY_PLAN_API_KEY",
    (NO_RETRY,),
)
NO_BEDROCK = Denied(
    501,
    "not_supported",
    "this user's routing strategy is bedrock_only, and this gateway serves the Anthropic plan only",
    (NO_RETRY,),
)
BETA_TOO_LONG = Denied(400, "invalid_request_error", f"anthropic-beta: expected at most {BETA_LIMIT >> 10} KiB")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds until a stream begins, until a whole answer begins, and between two bytes of either."""

    first_byte: float
    whole_answer: float
    idle: float


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
        plan: Upstream,
        plan_api_key: str | None,
        bodies: BodyReader,
        deadlines: Deadlines,
        usage: Callable[[Principal], Awaitable[bytes]],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        new_request_id: Callable[[], str],
    ) -> None:
        self._admission = admission
        self._accounts = accounts
        self._plan = plan
        self._plan_api_key = plan_api_key
        self._bodies = bodies
        self._deadlines = deadlines
        self._usage = usage
        self._now = now
        self._monotonic = monotonic
        self._new_request_id = new_request_id
        self._routes: dict[str, tuple[str, Callable[[_Call], Awaitable[Denied | None]]]] = {
            "/v1/messages": ("POST", self._messages),
            "/v1/messages/count_tokens": ("POST", self._pass_through),
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
        body = await self._bodies.read(call.receive, call.scope["headers"])
        if isinstance(body, Denied):
            return body
        try:
            return await self._exchange(call, body)
        finally:
            self._bodies.release(body)

    async def _exchange(self, call: _Call, body: bytes) -> Denied | None:
        facts = inspect(body)
        if isinstance(facts, BadRequest):
            return Denied(400, "invalid_request_error", facts.message)
        timeout = self._deadlines.first_byte if facts.stream else self._deadlines.whole_answer
        request = self._outbound(call, body, timeout)
        if isinstance(request, Denied):
            return request
        exchange = Exchange(
            request_id=call.request_id,
            admitted=call.admitted,
            facts=facts,
            headers=call.scope["headers"],
            body_bytes=len(body),
            admitted_at=self._now(),
            started=self._monotonic(),
        )
        shared = self._shared(call)
        watcher = spawn(_watch(call.receive, exchange.line), name="client watcher")
        try:
            reply = await self._plan.open(request, exchange.line)
            if isinstance(reply, Failure):
                if reply.kind is FailureKind.ABORTED:
                    await self._accounts.settle_client_left(exchange)
                else:
                    await relay.fail(exchange, reply, self._accounts, call.send)
            elif relay.is_event_stream(reply):
                await relay.stream(exchange, reply, self._accounts, call.send, shared_credential=shared)
            else:
                await relay.whole(exchange, reply, self._accounts, call.send, shared_credential=shared)
        except LedgerUnavailable:
            return relay.UNRECORDED
        except asyncio.CancelledError:  # the server gives up on us at the end of its drain
            exchange.line.abort()
            await asyncio.shield(self._accounts.settle_client_left(exchange))
            raise
        finally:
            watcher.cancel()
        return None

    async def _pass_through(self, call: _Call) -> Denied | None:
        """Counting tokens and listing models: never metered, never billed."""
        body = await self._bodies.read(call.receive, call.scope["headers"])
        if isinstance(body, Denied):
            return body
        line = Abortable()
        watcher = spawn(_watch(call.receive, line), name="client watcher")
        try:
            request = self._outbound(call, body, self._deadlines.first_byte)
            if isinstance(request, Denied):
                return request
            reply = await self._plan.open(request, line)
            answer = reply if isinstance(reply, Failure) else await relay.collect(reply, line)
            if isinstance(reply, Failure) or isinstance(answer, Failure):
                failure = reply if isinstance(reply, Failure) else answer
                assert isinstance(failure, Failure)
                return None if line.aborted else Denied(502, "api_error", failure.detail)
            shared = self._shared(call)
            denied = relay.refuse(reply, answer, shared_credential=shared)
            if denied is None:
                headers = relay.head(reply, call.request_id, shared_credential=shared)
                await send_whole(call.send, reply.status, headers, answer)
            return denied
        finally:
            self._bodies.release(body)
            watcher.cancel()

    async def _oauth_usage(self, call: _Call) -> Denied | None:
        body = await self._usage(call.admitted.principal)
        await send_json(call.send, 200, body, call.request_id, headers=((b"cache-control", b"no-store"),))
        return None

    def _shared(self, call: _Call) -> bool:
        """Whether the request goes out with the gateway's credential and not with the client's own."""
        return not has_own_credential(call.scope["headers"], access_key=call.admitted.access_key)

    def _outbound(self, call: _Call, body: bytes, first_byte_timeout: float) -> OutboundRequest | Denied:
        headers = call.scope["headers"]
        if call.admitted.principal.strategy == "bedrock_only":
            return NO_BEDROCK
        if self._plan_api_key is None and self._shared(call):
            return NO_CREDENTIAL
        if sum(len(value) for name, value in headers if name == b"anthropic-beta") > BETA_LIMIT:
            return BETA_TOO_LONG
        query = call.scope["query_string"]
        passes = query and len(query) <= QUERY_LIMIT and b"ak_" not in query
        path = call.path.encode()
        return OutboundRequest(
            method=call.scope["method"].encode(),
            path=path + b"?" + query if passes else path,
            headers=request_headers(headers, access_key=call.admitted.access_key, plan_api_key=self._plan_api_key),
            body=body,
            first_byte_timeout=first_byte_timeout,
            idle_timeout=self._deadlines.idle,
        )


def is_data_path(path: str) -> bool:
    """Whether a path belongs to the data plane."""
    return path.startswith(("/ak/", "/v1/", "/api/hello", "/api/oauth/"))


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


async def _watch(receive: Receive, line: Abortable) -> None:
    """Abort the provider's request when the client leaves."""
    with suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
        line.abort()
