"""Access keys."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Response

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import Cursor, Limit, Text, TheActor, TheServices, Version
from daemon.contract.access_keys import AccessKey, AccessKeyCreate, AccessKeyRotate, AccessKeySecret, AccessKeyUpdate
from daemon.contract.common import Page

router = APIRouter(prefix="/admin", tags=["access keys"], route_class=StrictRoute)


@router.get("/access-keys")
async def list_keys(
    services: TheServices, limit: Limit = 100, cursor: Cursor = None, name: Text = None, search: Text = None
) -> Page[AccessKey]:
    """Keys of all users."""
    return await services.access_keys.list_keys(limit=limit, cursor=cursor, name=name, search=search)


@router.get("/users/{user_id}/access-keys")
async def list_keys_of_user(
    user_id: UUID,
    services: TheServices,
    limit: Limit = 100,
    cursor: Cursor = None,
    name: Text = None,
    search: Text = None,
) -> Page[AccessKey]:
    """Keys of one user."""
    return await services.access_keys.list_keys(limit=limit, cursor=cursor, user_id=user_id, name=name, search=search)


@router.post("/users/{user_id}/access-keys", status_code=201)
async def create_key(
    user_id: UUID, wanted: Annotated[AccessKeyCreate, Body()], services: TheServices, actor: TheActor
) -> AccessKeySecret:
    """Issue a key. It is in this answer and nowhere else."""
    return await services.access_keys.create_key(user_id, wanted, actor)


@router.get("/access-keys/{key_id}")
async def get_key(key_id: UUID, services: TheServices, response: Response) -> AccessKey:
    """One key, without its secret."""
    return _tagged(response, await services.access_keys.get_key(key_id))


@router.patch("/access-keys/{key_id}")
async def update_key(
    key_id: UUID,
    wanted: Annotated[AccessKeyUpdate, Body()],
    services: TheServices,
    actor: TheActor,
    version: Version,
    response: Response,
) -> AccessKey:
    """Change a key's name, expiry or limits."""
    return _tagged(response, await services.access_keys.update_key(key_id, wanted, actor, version=version))


@router.post("/access-keys/{key_id}/rotate")
async def rotate_key(
    key_id: UUID,
    services: TheServices,
    actor: TheActor,
    version: Version,
    wanted: Annotated[AccessKeyRotate | None, Body()] = None,
) -> AccessKeySecret:
    """Replace a key's secret; the old one works for the grace."""
    grace = (wanted or AccessKeyRotate()).grace_seconds
    return await services.access_keys.rotate_key(key_id, grace_seconds=grace, actor=actor, version=version)


@router.delete("/access-keys/{key_id}")
async def revoke_key(key_id: UUID, services: TheServices, actor: TheActor, version: Version) -> AccessKey:
    """Revoke a key. Revoking it again changes nothing."""
    return await services.access_keys.revoke_key(key_id, actor, version=version)


def _tagged(response: Response, key: AccessKey) -> AccessKey:
    response.headers["etag"] = f'"{key.version}"'
    return key
