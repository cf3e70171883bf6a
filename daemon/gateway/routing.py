"""What routing goes by and what it learns, in one place: loaded at the start, and again when a replica changed it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog

from daemon.gateway.bedrock import ModelMap
from daemon.gateway.circuits import Circuits
from daemon.gateway.learned import Compatibility, Sessions
from daemon.store.engine import OUTAGES, Store
from daemon.store.epochs import read_all
from daemon.store.routing import load_mappings

log = structlog.get_logger()

EPOCH_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Routing:
    """State that all exchanges share."""

    circuits: Circuits
    compatibility: Compatibility
    sessions: Sessions
    models: ModelMap

    async def load(self, store: Store) -> None:
        """Take over everything that is in the store."""
        async with store.write() as connection:  # expired rows are deleted on the way
            await self.circuits.load(connection)
            await self.compatibility.load(connection)
            await self.sessions.load(connection)
            self.models.database = await load_mappings(connection)


class Follower:
    """Follows the epochs in the store: what another replica changed is forgotten or loaded again, here as there.

    `loads` are run when the epoch of their name has changed, and once at the first look.
    """

    def __init__(
        self,
        store: Store,
        on_access_change: Callable[[], None],
        routing: Routing,
        loads: Mapping[str, Callable[[], Awaitable[None]]],
    ) -> None:
        self._store = store
        self._on_access_change = on_access_change
        self._routing = routing
        self._loads = loads
        self._known: dict[str, int] | None = None
        self._wake = asyncio.Event()

    def soon(self) -> None:
        """Look now: this replica has changed something itself."""
        self._wake.set()

    async def run(self) -> None:
        """Look every second; while the store is away what is known stays."""
        while True:
            try:
                await self._look()
            except OUTAGES:
                log.warning("epoch poll failed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), EPOCH_POLL_SECONDS)
            self._wake.clear()

    async def _look(self) -> None:
        async with self._store.read() as connection:
            epochs = await read_all(connection)
        known = self._known
        changed = {name for name, epoch in epochs.items() if known is None or known.get(name) != epoch}
        for name in changed & self._loads.keys():
            await self._loads[name]()
        if known is not None:
            if "access" in changed:
                self._on_access_change()
            if changed & {"routing", "models"}:
                await self._routing.load(self._store)
        self._known = epochs  # after an outage half-way all of it is done again
