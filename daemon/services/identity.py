"""Who sends a request, and what they may do."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from daemon.contract.auth import Role


@dataclass(frozen=True, slots=True)
class Identity:
    """The admin, a service token, or a browser that signed in with one; `token_id` is None for the admin."""

    name: str
    role: Role
    scopes: frozenset[str]
    expires_at: datetime | None
    token_id: UUID | None = None
