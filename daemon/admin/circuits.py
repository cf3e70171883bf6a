"""Circuits."""

from uuid import UUID

from fastapi import APIRouter, Response

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import Cursor, Limit, ProviderName, TheActor, TheServices
from daemon.contract.circuits import Circuit, CircuitState
from daemon.contract.common import Page

router = APIRouter(prefix="/admin/circuits", tags=["circuits"], route_class=StrictRoute)


@router.get("")
async def list_circuits(
    services: TheServices,
    limit: Limit = 100,
    cursor: Cursor = None,
    access_key_id: UUID | None = None,
    provider: ProviderName = None,
    state: CircuitState | None = None,
) -> Page[Circuit]:
    """Circuits as they stand now."""
    return await services.circuits.list_circuits(
        limit=limit, cursor=cursor, access_key_id=access_key_id, provider=provider, state=state
    )


@router.post("/{circuit_id}/reset", status_code=204, response_class=Response)
async def reset_circuit(circuit_id: UUID, services: TheServices, actor: TheActor) -> None:
    """Forget a circuit: its provider is tried again from the next request on."""
    await services.circuits.reset_circuit(circuit_id, actor)
