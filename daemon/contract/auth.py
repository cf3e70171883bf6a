"""Signing in to the admin API."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from daemon.contract.common import Answer

Role = Literal["admin", "service", "viewer"]


class AccessToken(Answer):
    """A session of the admin, to be sent as `Authorization: Bearer`."""

    access_token: str = Field(repr=False)
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the scheme's name, not a secret
    expires_in: int
    expires_at: datetime


class Session(Answer):
    """Who is signed in, what they may do, and until when; null is until the token is revoked.

    `admin` is the configured admin, `service` a service token, `viewer` a browser that signed in with one.
    """

    username: str
    role: Role
    scopes: list[str]
    expires_at: datetime | None
