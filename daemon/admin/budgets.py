"""Budgets."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query, Response

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import Cursor, Limit, Text, TheActor, TheServices, Version
from daemon.contract.budgets import BudgetStatus, BudgetUpdate
from daemon.contract.common import Page

router = APIRouter(prefix="/admin", tags=["budgets"], route_class=StrictRoute)


@router.get("/budgets")
async def list_budgets(
    services: TheServices,
    limit: Limit = 100,
    cursor: Cursor = None,
    team: Text = None,
    over: Annotated[float | None, Query(ge=0, le=1000)] = None,
) -> Page[BudgetStatus]:
    """Users that have a budget; with `over`, those on the page that have used more than so many percent of it."""
    return await services.budgets.list_budgets(limit=limit, cursor=cursor, team=team, over=over)


@router.get("/users/{user_id}/budget")
async def get_budget(user_id: UUID, services: TheServices, response: Response) -> BudgetStatus:
    """A user's budget, and how much of it is gone."""
    budget = await services.budgets.get_budget(user_id)
    response.headers["etag"] = f'"{budget.version}"'
    return budget


@router.put("/users/{user_id}/budget")
async def set_budget(
    user_id: UUID,
    wanted: Annotated[BudgetUpdate, Body()],
    services: TheServices,
    actor: TheActor,
    version: Version,
    response: Response,
) -> BudgetStatus:
    """Set a user's budget: it holds from the next request on."""
    budget = await services.budgets.set_budget(user_id, wanted, actor, version=version)
    response.headers["etag"] = f'"{budget.version}"'
    return budget
