"""Prices: what is in use, loading it again, pricing history anew."""

import json
from typing import Annotated

from fastapi import APIRouter, Body

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import ProviderName, Text, TheActor, TheServices
from daemon.contract.pricing import ModelPrices, PriceReload, PricesReloaded, Reprice, Repriced

router = APIRouter(tags=["pricing"], route_class=StrictRoute)


@router.get("/api/pricing/models")
async def list_prices(
    services: TheServices,
    provider: ProviderName = None,
    region: Text = None,
    model: Text = None,
) -> ModelPrices:
    """The prices that costs are computed with, and those that are to come."""
    return services.pricing.list_prices(provider=provider, region=region, model=model)


@router.post("/api/pricing/reload")
async def reload_prices(
    services: TheServices, actor: TheActor, wanted: Annotated[PriceReload | None, Body()] = None
) -> PricesReloaded:
    """Load prices again, on every replica: an uploaded sheet, or what is configured. A bad sheet changes nothing."""
    wanted = wanted or PriceReload()
    sheet = wanted.sheet if wanted.sheet is None or isinstance(wanted.sheet, str) else json.dumps(wanted.sheet)
    # what is not Unicode is refused with everything else that is no sheet
    upload = None if sheet is None else sheet.encode(errors="surrogatepass")
    return await services.pricing.reload(upload, actor, force=wanted.force, dry_run=wanted.dry_run)


@router.post("/admin/pricing/reprice")
async def reprice(wanted: Annotated[Reprice, Body()], services: TheServices, actor: TheActor) -> Repriced:
    """Compute the cost of past requests anew, a step at a time: ask again with the cursor until there is none."""
    return await services.repricer.step(wanted, actor)
