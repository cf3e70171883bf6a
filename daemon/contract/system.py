"""The daemon about itself."""

from datetime import datetime
from typing import Any

from daemon.contract.common import Answer


class SystemStatus(Answer):
    """Version, clock, schema store and the facts the running parts report."""

    version: str
    time: datetime
    database_ok: bool
    facts: dict[str, Any]
