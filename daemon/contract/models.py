"""Model mappings: from the model a client asks for to the one Bedrock is asked for."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from daemon.contract.common import Answer, Description, Request, Result, RoutingStrategy

MappingSource = Literal["database", "environment", "packaged"]
RegionSource = Literal["query", "bedrock_key", "default"]
Provider = Literal["plan", "bedrock"]
_LONG_CONTEXT = "[1m]"


def _model_name(text: str) -> str:
    """A name as the database keeps it: Claude Code's `[1m]` says how a model is used, not which one it is."""
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("expected printable ASCII without spaces")
    name = text.removesuffix(_LONG_CONTEXT)
    if not name:
        raise ValueError("expected the name of a model")
    return name


ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_model_name)]


class ModelMapping(Answer):
    """One mapping of one layer. Only those of the database have id, version and times, and can be changed.

    `effective` says that no layer above maps the model; `route`, `price_known` are those of the default region.
    """

    id: UUID | None
    claude_model: str
    bedrock_model: str
    description: str | None
    source: MappingSource
    effective: bool
    route: str
    price_known: bool
    version: int | None
    created_at: datetime | None
    updated_at: datetime | None


class ModelMappingCreated(ModelMapping):
    """The answer to a create."""

    result: Result


class ModelMappingCreate(Request):
    """A new mapping: over the environment's and the packaged one of the same model."""

    claude_model: ModelName
    bedrock_model: str
    description: Description | None = None


class ModelMappingUpdate(Request):
    """A new target of a mapping; an absent description stays, null clears it."""

    bedrock_model: str
    description: Description | None = None


class ModelResolution(Answer):
    """What would happen to a request for a model. When it is not `mapped`, `reason` says why.

    `alternatives` are profiles that are tried when `bedrock_model` does not exist. Strategy and providers, in their
    order, are those of the user, and null and empty when no user was named.
    """

    model: str
    mapped: bool
    reason: str | None = None
    source: MappingSource | None = None
    bedrock_model: str | None = None
    alternatives: list[str] = Field(default_factory=list)
    route: str | None = None
    region: str
    region_source: RegionSource
    profile: str | None
    price_known: bool = False
    price_model: str | None = None
    price_region: str | None = None
    user_id: UUID | None = None
    user_name: str | None = None
    access_key_id: UUID | None = None
    access_key_name: str | None = None
    has_bedrock_key: bool | None = None
    routing_strategy: RoutingStrategy | None = None
    providers: list[Provider] = Field(default_factory=list)
