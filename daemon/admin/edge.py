"""The outermost layers of the admin API: request id, body limit, the guard, the last error boundary."""

import ipaddress
from collections.abc import Callable, Sequence

import structlog
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.routing import Match, Router

from daemon.admin.answers import error_answer, refusal
from daemon.admin.cookies import PROOF_HEADER, is_from_our_pages, session_cookie
from daemon.admin.scopes import ANYBODY, PUBLIC, needed
from daemon.core.scopes import covers
from daemon.protocol.asgi import App, Message, Receive, Scope, Send
from daemon.services.audit import Actor
from daemon.services.errors import Forbidden, Malformed, ServiceError, TooLarge, Unauthenticated, Unavailable
from daemon.services.identity import Identity
from daemon.services.sessions import Sessions
from daemon.store.engine import OUTAGES

log = structlog.get_logger()

LARGEST_BODY = 256 * 1024
_CHANGES_NOTHING = frozenset({"GET", "HEAD", "OPTIONS"})
Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


class Edge:
    """Gives every answer a request id, and every failure an answer."""

    def __init__(self, app: App, *, new_request_id: Callable[[], str], trusted: Networks) -> None:
        self._app = app
        self._new_request_id = new_request_id
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = self._new_request_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["remote_address"] = _remote_address(Request(scope), self._trusted)
        started = False

        async def stamped(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = [(b"request-id", request_id.encode()), (b"cache-control", b"no-store")]
                message["headers"] = [*message.get("headers", []), *own, (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self._app(scope, _limited(receive), stamped)
        except ServiceError as error:
            await refusal(error, request_id)(scope, receive, stamped)
        except OUTAGES:
            log.warning("store is away", request_id=request_id, path=scope["path"])
            away = Unavailable("the database cannot be reached, try again shortly", retry_after=5)
            await refusal(away, request_id)(scope, receive, stamped)
        except Exception:  # the ASGI edge: the client gets an answer, the log gets the reason
            log.exception("admin request failed", request_id=request_id, method=scope["method"], path=scope["path"])
            if started:
                raise
            message = "the daemon failed, its log says why under this request id"
            await error_answer(500, "internal_error", message, request_id=request_id)(scope, receive, stamped)


class Guard:
    """Default deny: whatever `router` serves needs somebody who is signed in and has the scope of the route.

    `routes` are those of the router that declare what they need; any other is the admin's alone.
    """

    def __init__(self, app: App, *, router: Router, routes: Sequence[APIRoute], sessions: Sessions) -> None:
        self._app = app
        self._router = router
        self._routes = routes
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            state = scope["state"]
            state["actor"] = Actor("anonymous", state["remote_address"], state["request_id"])
            if any(route.matches(scope)[0] is not Match.NONE for route in self._router.routes):
                need = needed(scope, self._routes)
                if need != PUBLIC:
                    identity = await self._identify(Request(scope))
                    if need != ANYBODY and not covers(identity.scopes, need):
                        raise Forbidden(f"{identity.name} lacks the scope {need}")
                    state["identity"] = identity
                    state["actor"] = Actor(identity.name, state["remote_address"], state["request_id"])
        await self._app(scope, receive, send)

    async def _identify(self, request: Request) -> Identity:
        """Who sends a request: by its bearer token, or else by its cookie, which another site's page may not use."""
        cookie = session_cookie(request)
        if cookie is None or "authorization" in request.headers:
            return await self._sessions.identify_bearer(_bearer(request))
        identity = await self._sessions.identify_cookie(cookie)
        if request.method not in _CHANGES_NOTHING and not is_from_our_pages(request):
            raise Forbidden(f"a change by cookie has to come from a page of this origin, or with {PROOF_HEADER}")
        return identity


def authorization(request: Request) -> str:
    """The one Authorization header of a request.

    Raises:
        Malformed: there are several.
        Unauthenticated: there is none.
    """
    values = request.headers.getlist("authorization")
    if len(values) > 1:
        raise Malformed("there is more than one authorization header")
    if not values:
        raise Unauthenticated("sign in first")
    return values[0]


def _bearer(request: Request) -> str:
    scheme, _, token = authorization(request).partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("sign in first")
    return token.strip()


def _limited(receive: Receive) -> Receive:
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > LARGEST_BODY:
            raise TooLarge(f"the body is larger than {LARGEST_BODY} bytes")
        return message

    return limited


def _remote_address(request: Request, trusted: Networks) -> str | None:
    """The peer, or behind trusted proxies the last address in X-Forwarded-For that none of them is."""
    address = request.client.host if request.client else None
    forwarded = [part.strip() for value in request.headers.getlist("x-forwarded-for") for part in value.split(",")]
    while address is not None and forwarded and _within(address, trusted):
        candidate = forwarded.pop()
        if _parsed(candidate) is None:
            break
        address = candidate
    return address[:64] if address is not None else None


def _within(address: str, networks: Networks) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None
