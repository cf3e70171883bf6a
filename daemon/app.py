"""One ASGI application out of three: data plane, control plane, health. The last error boundary is here."""

from collections.abc import Callable

import structlog

from daemon.gateway.answers import send_json
from daemon.gateway.endpoints import DataPlane, is_data_path
from daemon.protocol.anthropic.errors import error_body
from daemon.protocol.asgi import App, Message, Receive, Scope, Send
from daemon.web.health import Health

log = structlog.get_logger()


class Application:
    """Sends each request to the plane that its path belongs to."""

    def __init__(
        self, *, data_plane: DataPlane, control_plane: App, health: Health, new_request_id: Callable[[], str]
    ) -> None:
        self._new_request_id = new_request_id
        self._data_plane = data_plane
        self._control_plane = control_plane
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if is_data_path(scope["path"]):
                await self._data_plane(scope, receive, watched)
            elif scope["path"] in ("/healthz", "/readyz"):
                await self._health(scope, receive, watched)
            else:
                await self._control_plane(scope, receive, watched)
        except Exception:  # the ASGI edge: whatever it is, the client gets an answer and the log the reason
            request_id = self._new_request_id()
            log.exception("request failed", request_id=request_id, method=scope["method"], path=scope["path"])
            if started:
                raise
            body = error_body("api_error", "the gateway failed, its log says why", request_id)
            await send_json(send, 500, body, request_id)
