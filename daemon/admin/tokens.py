"""Service tokens."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import Cursor, Limit, Text, TheActor, TheIdentity, TheServices
from daemon.contract.common import Page
from daemon.contract.tokens import ServiceToken, ServiceTokenCreate, ServiceTokenSecret

router = APIRouter(prefix="/admin/tokens", tags=["service tokens"], route_class=StrictRoute)


@router.get("")
async def list_tokens(
    services: TheServices, limit: Limit = 100, cursor: Cursor = None, name: Text = None
) -> Page[ServiceToken]:
    """Service tokens that are not revoked, without their secrets."""
    return await services.service_tokens.list_tokens(limit=limit, cursor=cursor, name=name)


@router.post("", status_code=201)
async def create_token(
    wanted: Annotated[ServiceTokenCreate, Body()], services: TheServices, actor: TheActor, identity: TheIdentity
) -> ServiceTokenSecret:
    """Create a service token with at most one's own scopes. It is in this answer and nowhere else."""
    return await services.service_tokens.create_token(wanted, actor, held=identity.scopes)


@router.delete("/{token_id}")
async def revoke_token(token_id: UUID, services: TheServices, actor: TheActor) -> ServiceToken:
    """Revoke a service token, and end the sessions of browsers that signed in with it. Again, it changes nothing."""
    return await services.service_tokens.revoke_token(token_id, actor)
