"""What each route of the admin API needs: the one place where it is said.

A route that is not here is the admin's alone.
"""

from collections.abc import Sequence

from fastapi.routing import APIRoute
from starlette.routing import Match

from daemon.core.scopes import ADMIN
from daemon.protocol.asgi import Scope

PUBLIC = "public"  # it checks credentials itself
ANYBODY = "anybody"  # whoever is signed in

NEEDS = {
    "POST /admin/auth/login": PUBLIC,
    "POST /admin/auth/session": PUBLIC,
    "GET /admin/auth/session": ANYBODY,
    "DELETE /admin/auth/session": ANYBODY,
    "GET /admin/users": "users:read",
    "POST /admin/users": "users:write",
    "GET /admin/users/{user_id}": "users:read",
    "PATCH /admin/users/{user_id}": "users:write",
    "PUT /admin/users/{user_id}/routing-strategy": "users:write",
    "DELETE /admin/users/{user_id}": "users:write",
    "GET /admin/access-keys": "keys:read",
    "GET /admin/access-keys/{key_id}": "keys:read",
    "PATCH /admin/access-keys/{key_id}": "keys:write",
    "POST /admin/access-keys/{key_id}/rotate": "keys:write",
    "DELETE /admin/access-keys/{key_id}": "keys:write",
    "GET /admin/users/{user_id}/access-keys": "keys:read",
    "POST /admin/users/{user_id}/access-keys": "keys:write",
    "GET /admin/access-keys/{key_id}/bedrock-key": "bedrock-keys:read",
    "POST /admin/access-keys/{key_id}/bedrock-key": "bedrock-keys:write",
    "DELETE /admin/access-keys/{key_id}/bedrock-key": "bedrock-keys:write",
    "POST /admin/access-keys/{key_id}/bedrock-key/test": "bedrock-keys:write",  # it costs money
    "GET /admin/budgets": "budgets:read",
    "GET /admin/users/{user_id}/budget": "budgets:read",
    "PUT /admin/users/{user_id}/budget": "budgets:write",
    "GET /admin/model-mappings": "models:read",
    "POST /admin/model-mappings": "models:write",
    "PUT /admin/model-mappings/{mapping_id}": "models:write",
    "DELETE /admin/model-mappings/{mapping_id}": "models:write",
    "GET /admin/models/resolve": "models:read",
    "GET /api/pricing/models": "pricing:read",
    "POST /api/pricing/reload": "pricing:write",
    "POST /admin/pricing/reprice": "pricing:write",
    "GET /admin/circuits": "circuits:read",
    "POST /admin/circuits/{circuit_id}/reset": "circuits:write",
    "GET /admin/compatibility": "compatibility:read",
    "DELETE /admin/compatibility": "compatibility:write",
    "DELETE /admin/compatibility/{learned_id}": "compatibility:write",
    "GET /admin/usage": "usage:read",
    "GET /admin/usage/top-users": "usage:read",
    "GET /admin/usage/cache": "usage:read",
    "GET /admin/usage/records": "usage:read",
    "GET /admin/usage/export": "usage:read",
    "GET /admin/usage/sessions/{session_id}": "usage:read",
    "GET /admin/audit": "audit:read",
    "GET /admin/system/status": "system:read",
    "GET /admin/system/stats": "system:read",
    "GET /admin/tokens": "tokens:read",
    "POST /admin/tokens": "tokens:write",
    "DELETE /admin/tokens/{token_id}": "tokens:write",
    "GET /openapi.json": ADMIN,
    "GET /docs": ADMIN,
}


def needed(scope: Scope, routes: Sequence[APIRoute]) -> str:
    """What a request needs. A method that its path does not have needs somebody who is signed in."""
    found = ADMIN
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return NEEDS.get(f"{scope['method']} {route.path}", ADMIN)
        if match is Match.PARTIAL:
            found = ANYBODY
    return found
