"""The audit log, the daemon about itself, its prices, and the description of this API."""

from typing import Any

from fastapi import APIRouter, Request

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import Cursor, Limit, Text, TheServices
from daemon.contract.audit import AuditEntry
from daemon.contract.common import Page
from daemon.contract.pricing import ModelPrice, ModelPrices
from daemon.contract.system import SystemStatus
from daemon.core.pricing import ModelPrice as SheetPrice
from daemon.core.pricing import PriceSheet

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


@router.get("/api/pricing/models")
async def list_prices(request: Request) -> ModelPrices:
    """The prices that costs are computed with."""
    sheet: PriceSheet = request.app.state.sheet()
    effective = sheet.effective_date.isoformat()
    items = [_price(entry, effective) for _, entry in sorted(sheet.prices.items())]
    return ModelPrices(sheet_id=sheet.sheet_id, items=items)


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> dict[str, Any]:
    """The OpenAPI document of the admin API."""
    document: dict[str, Any] = request.app.openapi()
    return document


def _price(entry: SheetPrice, effective_date: str) -> ModelPrice:
    rates = entry.standard
    return ModelPrice(
        provider=entry.provider,
        region=entry.region,
        model=entry.model,
        input_price_per_million=str(rates.input),
        output_price_per_million=str(rates.output),
        cache_write_5m_price_per_million=str(rates.cache_write_5m),
        cache_write_1h_price_per_million=None if rates.cache_write_1h is None else str(rates.cache_write_1h),
        cache_read_price_per_million=str(rates.cache_read),
        effective_date=effective_date,
    )
