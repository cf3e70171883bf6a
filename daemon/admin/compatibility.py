"""What was learned about providers."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import Cursor, Limit, ProviderName, Text, TheActor, TheServices
from daemon.contract.common import Page
from daemon.contract.compatibility import Forgotten, Learned, LearnedFilter

router = APIRouter(prefix="/admin/compatibility", tags=["compatibility"], route_class=StrictRoute)


@router.get("")
async def list_learned(
    services: TheServices, limit: Limit = 100, cursor: Cursor = None, provider: ProviderName = None, model: Text = None
) -> Page[Learned]:
    """What is believed now, in the order it was learned."""
    only = LearnedFilter(provider=provider, model=model)
    return await services.compatibility.list_learned(only, limit=limit, cursor=cursor)


@router.delete("")
async def forget_all(only: Annotated[LearnedFilter, Query()], services: TheServices, actor: TheActor) -> Forgotten:
    """Forget all that matches; without a filter, everything."""
    return await services.compatibility.forget_all(only, actor)


@router.delete("/{learned_id}", status_code=204, response_class=Response)
async def forget(learned_id: UUID, services: TheServices, actor: TheActor) -> None:
    """Forget one thing: the next request tries it again."""
    await services.compatibility.forget(learned_id, actor)
