"""Circuits: which provider is left alone for a while, for whom, and until when."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from daemon.contract.common import Answer

CircuitState = Literal["closed", "open", "half_open"]


class Circuit(Answer):
    """One circuit as it stands now. Names are those of the access key it belongs to, itself or by its Bedrock key.

    `scope` is access_key or credential: a Bedrock key's id, or `plan` for the shared key of the plan.
    `half_open`: its time is over and the next request is a probe. `seconds_left` is how long it stays open.
    """

    id: UUID
    scope: str
    scope_id: str
    user_name: str | None
    access_key_name: str | None
    provider: str
    state: CircuitState
    seconds_left: int | None
    failures: int
    last_failure: str | None
    reopened: int
    probe_running: bool
    opened_at: datetime | None
    open_until: datetime | None
    updated_at: datetime
