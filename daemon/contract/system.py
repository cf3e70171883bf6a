"""The daemon about itself."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from daemon.contract.common import Answer


class SystemStatus(Answer):
    """Version, clock, store, and the facts that the running parts report. Without a database there is no revision."""

    version: str
    time: datetime
    database_ok: bool
    schema_revision: str | None
    facts: dict[str, Any]


class StatsRow(Answer):
    """What happened to one user, model or provider in the window. Money is exact, a string of dollars."""

    name: str
    requests: int
    errors: int
    fallbacks: int
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int
    cost_usd: str


class SystemStats(Answer):
    """The last minutes of the whole fleet, from the ledger; what is in flight is this replica's."""

    time: datetime
    version: str
    window_seconds: int
    requests_in_flight: int
    requests_per_minute: Annotated[float, Field(ge=0)]
    circuits_open: int
    total: StatsRow
    by_user: list[StatsRow]
    by_model: list[StatsRow]
    by_provider: list[StatsRow]
