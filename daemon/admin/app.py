"""The admin API as one ASGI application."""

import ipaddress
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from daemon.admin import (
    access_keys,
    auth,
    bedrock_keys,
    budgets,
    circuits,
    compatibility,
    docs,
    models,
    pricing,
    system,
    tokens,
    usage,
    users,
)
from daemon.admin.answers import on_http_error, on_invalid
from daemon.admin.edge import Edge, Guard
from daemon.admin.openapi import complete
from daemon.admin.replay import Replay
from daemon.services.ids import uuid7
from daemon.services.registry import Services

_MODULES = (
    auth,
    users,
    access_keys,
    budgets,
    bedrock_keys,
    models,
    pricing,
    circuits,
    compatibility,
    usage,
    tokens,
    system,
    docs,
)


def build_admin_app(services: Services, *, trusted_proxies: str = "") -> FastAPI:
    """The admin API. `trusted_proxies`: addresses and networks whose X-Forwarded-For is believed, comma separated."""
    app = _routes()
    app.state.services = services
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    # the last one added is the outermost
    app.add_middleware(Replay, idempotency=services.idempotency)
    app.add_middleware(Guard, router=app.router, routes=declared_routes(), sessions=services.sessions)
    app.add_middleware(
        Edge,
        new_request_id=lambda: f"req_{uuid7(services.now(), services.token_bytes).hex}",
        trusted=[
            ipaddress.ip_network(part.strip(), strict=False) for part in trusted_proxies.split(",") if part.strip()
        ],
    )
    return app


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document, without a running daemon."""
    return _routes().openapi()


def declared_routes() -> list[APIRoute]:
    """All routes, hidden ones too, each with its whole path."""
    return [route for module in _MODULES for route in module.router.routes if isinstance(route, APIRoute)]


def _routes() -> FastAPI:
    app = FastAPI(
        title="proxyctl admin API",
        version=version("claude-code-proxyctl"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,  # stable, and short enough for generated clients
    )
    for module in _MODULES:
        app.include_router(module.router)
    app.openapi = partial(complete, app)  # type: ignore[method-assign]
    return app
