"""Access keys: what a client authenticates with. The key itself is in two answers only, and once."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from daemon.contract.common import Answer, Instant, Name, Request, Result

MAXIMUM_GRACE_SECONDS = 7 * 86_400
KeyLimit = Annotated[int, Field(ge=1, le=1_000_000_000)]
AccessKeyStatus = Literal["active", "expired", "revoked"]


class AccessKey(Answer):
    """An access key without its secret. Until `previous_expires_at` the key before a rotation works too."""

    id: UUID
    user_id: UUID
    user_name: str
    name: str
    key_prefix: str
    status: AccessKeyStatus
    expires_at: datetime | None
    previous_expires_at: datetime | None
    last_used_at: datetime | None
    limit_requests_per_minute: int | None
    limit_tokens_per_minute: int | None
    limit_concurrent_requests: int | None
    version: int
    created_at: datetime
    updated_at: datetime


class AccessKeySecret(AccessKey):
    """The answer to a create or a rotation: the only place where the key is shown."""

    result: Result
    access_key: str = Field(repr=False)


class AccessKeyCreate(Request):
    """A new key. Its name is unique among the user's keys that are not revoked. Without limits it has none."""

    name: Name
    expires_at: Annotated[Instant, Field(strict=False)] | None = None
    limit_requests_per_minute: KeyLimit | None = None
    limit_tokens_per_minute: KeyLimit | None = None
    limit_concurrent_requests: KeyLimit | None = None


class AccessKeyUpdate(Request):
    """A change of a key: an absent field stays, null clears it."""

    name: Name | None = None
    expires_at: Annotated[Instant, Field(strict=False)] | None = None
    limit_requests_per_minute: KeyLimit | None = None
    limit_tokens_per_minute: KeyLimit | None = None
    limit_concurrent_requests: KeyLimit | None = None


class AccessKeyRotate(Request):
    """A rotation: the old key goes on working for the grace."""

    grace_seconds: Annotated[int, Field(ge=0, le=MAXIMUM_GRACE_SECONDS)] = 300
