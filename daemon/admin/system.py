"""The audit log, the daemon about itself, and the description of this API."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import Cursor, Limit, Text, TheServices
from daemon.contract.audit import AuditEntry
from daemon.contract.common import Instant, Page
from daemon.contract.system import SystemStats, SystemStatus

router = APIRouter(tags=["system"], route_class=StrictRoute)
Since = Annotated[Instant | None, Query(description="an instant with a zone")]


@router.get("/admin/audit")
async def list_audit(
    services: TheServices,
    limit: Limit = 100,
    cursor: Cursor = None,
    actor: Text = None,
    action: Text = None,
    object_type: Text = None,
    object_id: Text = None,
    since: Since = None,
    until: Since = None,
) -> Page[AuditEntry]:
    """Who changed what, newest first. `until` is not part of it."""
    return await services.audit.list_entries(
        limit=limit,
        cursor=cursor,
        since=since,
        until=until,
        actor=actor,
        action=action,
        object_type=object_type,
        object_id=object_id,
    )


@router.get("/admin/system/status")
async def get_status(services: TheServices) -> SystemStatus:
    """Version, clock, store."""
    return await services.system.status()


@router.get("/admin/system/stats")
async def get_stats(services: TheServices, minutes: Annotated[int, Query(ge=1, le=60)] = 5) -> SystemStats:
    """What the last minutes were like: requests, errors, fallbacks and cost by user, model and provider."""
    return await services.system.stats(minutes)


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> dict[str, Any]:
    """The OpenAPI document of the admin API."""
    document: dict[str, Any] = request.app.openapi()
    return document
