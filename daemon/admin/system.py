"""The audit log, the daemon about itself, and the description of this API."""

from typing import Any

from fastapi import APIRouter, Request

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import Cursor, Limit, Text, TheServices
from daemon.contract.audit import AuditEntry
from daemon.contract.common import Page
from daemon.contract.system import SystemStatus

router = APIRouter(tags=["system"], route_class=StrictRoute)


@router.get("/admin/audit")
async def list_audit(
    services: TheServices, limit: Limit = 100, cursor: Cursor = None, action: Text = None, object_id: Text = None
) -> Page[AuditEntry]:
    """Who changed what, newest first."""
    return await services.audit.list_entries(limit=limit, cursor=cursor, action=action, object_id=object_id)


@router.get("/admin/system/status")
async def get_status(services: TheServices) -> SystemStatus:
    """Version, clock, store."""
    return await services.system.status()


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> dict[str, Any]:
    """The OpenAPI document of the admin API."""
    document: dict[str, Any] = request.app.openapi()
    return document
