"""What the gateway learned about providers: what a model does not take, and for how long that is believed."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints

from daemon.contract.common import Answer

_Text = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f]*$")]


class Learned(Answer):
    """One thing that a provider refused for a model: `kind` is beta, field, tool, thinking, profile or route."""

    id: UUID
    provider: str
    region: str
    model: str
    kind: str
    value: str
    reason: str
    learned_at: datetime
    expires_at: datetime


class LearnedFilter(BaseModel):
    """Which of it. An unknown field is refused: a typing error must not forget everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: _Text | None = None
    model: _Text | None = None


class Forgotten(Answer):
    """How many were forgotten."""

    forgotten: int
