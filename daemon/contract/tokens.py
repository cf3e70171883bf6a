"""Service tokens: what CI and other machines sign in with. The token itself is in one answer only, and once."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field

from daemon.contract.common import Answer, Instant, Request

ServiceTokenStatus = Literal["active", "expired", "revoked"]
LONGEST_NAME = 64


def _plain_name(text: str) -> str:
    # it stands in the audit log after `token:`, so it must not look like anything else
    if not (text.isascii() and text[:1].isalnum() and all(c.isalnum() or c in "._-" for c in text)):
        raise ValueError("must begin with a letter or digit and hold only those, dots, dashes and underscores")
    return text


TokenName = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_plain_name)]
Scope = Annotated[str, Field(min_length=1, max_length=64)]


class ServiceToken(Answer):
    """A service token without its secret."""

    id: UUID
    name: str
    token_prefix: str
    scopes: list[str]
    status: ServiceTokenStatus
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


class ServiceTokenSecret(ServiceToken):
    """The answer to a create: the only place where the token is shown."""

    result: Literal["created"]
    token: str = Field(repr=False)


class ServiceTokenCreate(Request):
    """A new token. Its name is unique among those that are not revoked; null as its expiry means never."""

    name: TokenName
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=64)]
    expires_at: Annotated[Instant, Field(strict=False)] | None
