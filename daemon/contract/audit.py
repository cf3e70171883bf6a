"""The audit log: who changed what, when and from where."""

from datetime import datetime
from typing import Any

from daemon.contract.common import Answer


class AuditEntry(Answer):
    """One change, or one sign-in. Never holds a secret."""

    id: int
    at: datetime
    actor: str
    action: str
    object_type: str
    object_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    remote_address: str | None
    request_id: str
