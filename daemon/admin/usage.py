"""Usage and cost."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import StreamingResponse

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import Cursor, Limit, ProviderName, Text, TheServices, TheSpan
from daemon.contract.common import Page
from daemon.contract.usage import (
    Bucket,
    CacheGroupBy,
    CacheReport,
    ExportFormat,
    GroupBy,
    Ranking,
    SessionTree,
    TopUsers,
    UsageEntry,
    UsageSummary,
)
from daemon.store.reports import Only

router = APIRouter(prefix="/admin/usage", tags=["usage"], route_class=StrictRoute)
_TYPES = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}


async def _filter(
    user_id: UUID | None = None,
    access_key_id: UUID | None = None,
    provider: ProviderName = None,
    model: Text = None,
    team: Text = None,
) -> Only:
    return Only(user_id, access_key_id, provider, model, team)


async def _ledger_filter(only: Annotated[Only, Depends(_filter)], session_id: Text = None) -> Only:
    return only.of_session(session_id)


Filter = Annotated[Only, Depends(_filter)]
LedgerFilter = Annotated[Only, Depends(_ledger_filter)]
SessionId = Annotated[str, Path(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]*$")]


@router.get("")
async def get_usage(
    services: TheServices, span: TheSpan, only: Filter, group_by: GroupBy | None = None, bucket: Bucket | None = None
) -> UsageSummary:
    """Totals; their parts with `group_by`, and over time with `bucket`. Without a range: this month."""
    return await services.usage.summary(span, only, group_by=group_by, bucket=bucket)


@router.get("/top-users")
async def top_users(
    services: TheServices,
    span: TheSpan,
    only: Filter,
    by: Ranking = "cost",
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    bucket: Bucket | None = None,
) -> TopUsers:
    """The users with the largest cost or the most tokens, with `bucket` over time."""
    return await services.usage.top_users(span, by=by, limit=limit, only=only, bucket=bucket)


@router.get("/cache")
async def get_cache(
    services: TheServices, span: TheSpan, only: Filter, group_by: CacheGroupBy = "model"
) -> CacheReport:
    """How well the prompt cache works, by model or session, and what its misses cost."""
    return await services.usage.cache(span, only, group_by=group_by)


@router.get("/records")
async def list_records(
    services: TheServices,
    span: TheSpan,
    only: LedgerFilter,
    limit: Limit = 100,
    cursor: Cursor = None,
    request_id: Text = None,
    errors: bool = False,
) -> Page[UsageEntry]:
    """Rows of the ledger, newest first."""
    return await services.usage.list_records(
        span, only, limit=limit, cursor=cursor, request_id=request_id, errors_only=errors
    )


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {}, "text/csv": {}}, "description": "rows, the oldest first"}},
)
async def export_records(
    services: TheServices,
    span: TheSpan,
    only: LedgerFilter,
    format: ExportFormat = "jsonl",  # noqa: A002 - the name in the API
    cursor: Cursor = None,
) -> StreamingResponse:
    """The ledger as a stream, the oldest row first. Each row has a `cursor`: an export goes on after it."""
    rows = await services.usage_export.open(span, only, format, cursor)
    return StreamingResponse(rows, media_type=_TYPES[format])


@router.get("/sessions/{session_id}")
async def get_session_tree(services: TheServices, session_id: SessionId, user_id: UUID | None = None) -> SessionTree:
    """What a session cost, as a tree: session, agent, sub-agent, request."""
    return await services.usage_sessions.tree(session_id, user_id=user_id)
