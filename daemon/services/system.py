"""The daemon about itself."""

from collections.abc import Callable
from datetime import datetime

from daemon.contract.system import SystemStatus
from daemon.store.engine import OUTAGES, Store


class System:
    """Version, clock, store and the facts that running parts report."""

    def __init__(
        self, store: Store, *, version: str, now: Callable[[], datetime], facts: Callable[[], dict[str, object]]
    ) -> None:
        self._store = store
        self._version = version
        self._now = now
        self._facts = facts

    async def status(self) -> SystemStatus:
        """How things stand; a store that is away is an answer, not an error."""
        try:
            await self._store.ping()
        except OUTAGES:
            answers = False
        else:
            answers = True
        return SystemStatus(version=self._version, time=self._now(), database_ok=answers, facts=self._facts())
