"""Bedrock keys of access keys."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Response

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import TheActor, TheServices
from daemon.contract.bedrock_keys import BedrockKey, BedrockKeySet, BedrockKeyTest

router = APIRouter(prefix="/admin/access-keys/{key_id}", tags=["bedrock keys"], route_class=StrictRoute)


@router.post("/bedrock-key", status_code=201)
async def set_bedrock_key(
    key_id: UUID, wanted: Annotated[BedrockKeySet, Body()], services: TheServices, actor: TheActor
) -> BedrockKey:
    """Register the Bedrock key of an access key, in place of the one before. Nothing shows it again."""
    return await services.bedrock_keys.set_key(key_id, wanted, actor)


@router.get("/bedrock-key")
async def get_bedrock_key(key_id: UUID, services: TheServices) -> BedrockKey:
    """The Bedrock key of an access key, without its secret."""
    return await services.bedrock_keys.get_key(key_id)


@router.delete("/bedrock-key", status_code=204, response_class=Response)
async def remove_bedrock_key(key_id: UUID, services: TheServices, actor: TheActor) -> None:
    """Take the Bedrock key away. Removing it again changes nothing."""
    await services.bedrock_keys.remove_key(key_id, actor)


@router.post("/bedrock-key/test")
async def test_bedrock_key(key_id: UUID, services: TheServices, actor: TheActor) -> BedrockKeyTest:
    """Send one small request to Bedrock with the key; it costs a little."""
    return await services.bedrock_keys.test_key(key_id, actor)
