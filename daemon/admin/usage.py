"""Usage and cost."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import Cursor, Limit, Text, TheServices, TheSpan
from daemon.contract.common import Page
from daemon.contract.usage import GroupBy, Ranking, TopUsers, UsageEntry, UsageSummary
from daemon.services.usage import UsageFilter

router = APIRouter(prefix="/admin/usage", tags=["usage"], route_class=StrictRoute)


def _filter(
    user_id: UUID | None = None, access_key_id: UUID | None = None, provider: Text = None, model: Text = None
) -> UsageFilter:
    return UsageFilter(user_id, access_key_id, provider, model)


Filter = Annotated[UsageFilter, Depends(_filter)]


@router.get("")
async def get_usage(
    services: TheServices, span: TheSpan, only: Filter, group_by: GroupBy | None = None
) -> UsageSummary:
    """Totals, and their parts when `group_by` is given. Without a range: this month."""
    return await services.usage.summary(span, only, group_by=group_by)


@router.get("/top-users")
async def top_users(
    services: TheServices,
    span: TheSpan,
    by: Ranking = "cost",
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> TopUsers:
    """The users with the largest cost or the most tokens."""
    return await services.usage.top_users(span, by=by, limit=limit)


@router.get("/records")
async def list_records(
    services: TheServices,
    span: TheSpan,
    only: Filter,
    limit: Limit = 100,
    cursor: Cursor = None,
    request_id: Text = None,
    session_id: Text = None,
    errors: bool = False,
) -> Page[UsageEntry]:
    """Rows of the ledger, newest first."""
    return await services.usage.list_records(
        span,
        only,
        limit=limit,
        cursor=cursor,
        request_id=request_id,
        session_id=session_id,
        errors_only=errors,
    )
