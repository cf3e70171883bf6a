"""Model mappings, and what becomes of a model."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query, Response

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import Cursor, Limit, Text, TheActor, TheServices, Version
from daemon.contract.common import Page
from daemon.contract.models import (
    MappingSource,
    ModelMapping,
    ModelMappingCreate,
    ModelMappingCreated,
    ModelMappingUpdate,
    ModelName,
    ModelResolution,
)
from daemon.services.models import Subject

router = APIRouter(prefix="/admin", tags=["models"], route_class=StrictRoute)


@router.get("/model-mappings")
async def list_mappings(
    services: TheServices,
    limit: Limit = 100,
    cursor: Cursor = None,
    claude_model: ModelName | None = None,
    source: MappingSource | None = None,
) -> Page[ModelMapping]:
    """Mappings of all layers: the database's, the environment's, the packaged."""
    return await services.models.list_mappings(limit=limit, cursor=cursor, claude_model=claude_model, source=source)


@router.post("/model-mappings", status_code=201)
async def create_mapping(
    wanted: Annotated[ModelMappingCreate, Body()], services: TheServices, actor: TheActor, response: Response
) -> ModelMappingCreated:
    """Map a model."""
    mapping = await services.models.create_mapping(wanted, actor)
    _tag(response, mapping)
    return mapping


@router.put("/model-mappings/{mapping_id}")
async def update_mapping(
    mapping_id: UUID,
    wanted: Annotated[ModelMappingUpdate, Body()],
    services: TheServices,
    actor: TheActor,
    version: Version,
    response: Response,
) -> ModelMapping:
    """Give a mapping another target."""
    mapping = await services.models.update_mapping(mapping_id, wanted, actor, version=version)
    _tag(response, mapping)
    return mapping


@router.delete("/model-mappings/{mapping_id}", status_code=204, response_class=Response)
async def delete_mapping(mapping_id: UUID, services: TheServices, actor: TheActor, version: Version) -> None:
    """Delete a mapping: the model goes where the layers below say."""
    await services.models.delete_mapping(mapping_id, actor, version=version)


@router.get("/models/resolve")
async def resolve_model(
    services: TheServices,
    model: Annotated[str, Query(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]*$")],
    access_key_id: UUID | None = None,
    user_id: UUID | None = None,
    region: Text = None,
    profile: Text = None,
) -> ModelResolution:
    """What would happen to a request for a model; nobody is called."""
    return await services.models.resolve(model, subject=Subject(user_id, access_key_id), region=region, profile=profile)


def _tag(response: Response, mapping: ModelMapping) -> None:
    response.headers["etag"] = f'"{mapping.version}"'
