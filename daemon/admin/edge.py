"""The outermost layers of the admin API: request id, body limit, the guard, the last error boundary."""

import ipaddress
from collections.abc import Callable, Sequence

import structlog
from starlette.requests import Request
from starlette.routing import Match, Router

from daemon.admin.answers import error_answer, refusal
from daemon.protocol.asgi import App, Message, Receive, Scope, Send
from daemon.services.audit import Actor
from daemon.services.errors import Malformed, ServiceError, TooLarge, Unauthenticated, Unavailable
from daemon.services.sign_in import SignIn
from daemon.store.engine import OUTAGES

log = structlog.get_logger()

LARGEST_BODY = 256 * 1024
PUBLIC = frozenset({("POST", "/admin/auth/login")})
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
    """Default deny: whatever a route of `router` serves needs a session, but for the paths in `PUBLIC`."""

    def __init__(self, app: App, *, router: Router, sign_in: SignIn) -> None:
        self._app = app
        self._router = router
        self._sign_in = sign_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            state = scope["state"]
            state["actor"] = Actor("anonymous", state["remote_address"], state["request_id"])
            if self._is_protected(scope):
                session = await self._sign_in.session(_bearer(Request(scope)))
                state["session"] = session
                state["actor"] = Actor(session.username, state["remote_address"], state["request_id"])
        await self._app(scope, receive, send)

    def _is_protected(self, scope: Scope) -> bool:
        if (scope["method"], scope["path"]) in PUBLIC:
            return False
        return any(route.matches(scope)[0] is not Match.NONE for route in self._router.routes)


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
