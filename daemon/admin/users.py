"""Users."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Response

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import Cursor, Limit, Text, TheActor, TheServices, Version
from daemon.contract.common import Page, RoutingStrategy
from daemon.contract.users import RoutingStrategyUpdate, User, UserCreate, UserCreated, UserUpdate

router = APIRouter(prefix="/admin/users", tags=["users"], route_class=StrictRoute)


@router.get("")
async def list_users(
    services: TheServices,
    limit: Limit = 100,
    cursor: Cursor = None,
    name: Text = None,
    search: Text = None,
    strategy: RoutingStrategy | None = None,
) -> Page[User]:
    """Users in the order they were created."""
    return await services.users.list_users(limit=limit, cursor=cursor, name=name, search=search, strategy=strategy)


@router.post("", status_code=201)
async def create_user(
    wanted: Annotated[UserCreate, Body()], services: TheServices, actor: TheActor, response: Response
) -> UserCreated:
    """Create a user."""
    user = await services.users.create_user(wanted, actor)
    _tag(response, user)
    return user


@router.get("/{user_id}")
async def get_user(user_id: UUID, services: TheServices, response: Response) -> User:
    """One user."""
    user = await services.users.get_user(user_id)
    _tag(response, user)
    return user


@router.patch("/{user_id}")
async def update_user(
    user_id: UUID,
    wanted: Annotated[UserUpdate, Body()],
    services: TheServices,
    actor: TheActor,
    version: Version,
    response: Response,
) -> User:
    """Change the fields that are sent."""
    user = await services.users.update_user(user_id, wanted, actor, version=version)
    _tag(response, user)
    return user


@router.put("/{user_id}/routing-strategy")
async def set_routing_strategy(
    user_id: UUID,
    wanted: Annotated[RoutingStrategyUpdate, Body()],
    services: TheServices,
    actor: TheActor,
    version: Version,
    response: Response,
) -> User:
    """Set the order in which providers are tried."""
    change = UserUpdate(routing_strategy=wanted.routing_strategy)
    user = await services.users.update_user(user_id, change, actor, version=version)
    _tag(response, user)
    return user


@router.delete("/{user_id}", status_code=204, response_class=Response)
async def delete_user(user_id: UUID, services: TheServices, actor: TheActor, version: Version) -> None:
    """Delete a user and revoke its keys."""
    await services.users.delete_user(user_id, actor, version=version)


def _tag(response: Response, user: User) -> None:
    response.headers["etag"] = f'"{user.version}"'
