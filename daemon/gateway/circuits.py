"""Circuits of the data plane: decided in memory, shared through the store.

Asking costs a dictionary look-up. Only failures, the success that ends them, and the one probe of a half-open circuit
touch the store; while it is away each replica goes by what it has seen itself. Instants in the store are wall-clock
time and become monotonic when they are loaded, so a clock that jumps moves no circuit that is known.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.circuit import CLOSED, PROBE_SECONDS, Circuit, Policy, State, failed, probing, released, succeeded
from daemon.core.failure import Verdict
from daemon.observability.tasks import Saves
from daemon.store import routing
from daemon.store.engine import OUTAGES
from daemon.store.epochs import bump
from daemon.store.routing import CircuitKey

log = structlog.get_logger()

_ASK_AGAIN_SECONDS = 1.0  # after another replica got the probe
Write = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


class Circuits:
    """All circuits of one replica. `owner` names the replica in the store."""

    def __init__(
        self,
        write: Write,
        saves: Saves,
        *,
        policy: Policy,
        owner: str,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        jitter: Callable[[], float],
        new_id: Callable[[], UUID],
    ) -> None:
        self._write = write
        self._saves = saves
        self._policy = policy
        self._owner = owner
        self._now = now
        self._monotonic = monotonic
        self._jitter = jitter
        self._new_id = new_id
        self._circuits: dict[CircuitKey, Circuit] = {}
        self._saving: dict[CircuitKey, asyncio.Lock] = {}

    def open(self) -> int:
        """How many circuits let nothing through right now."""
        now = self._monotonic()
        return sum(circuit.state(now) is State.OPEN for circuit in self._circuits.values())

    async def allow(self, keys: Sequence[CircuitKey]) -> bool:
        """Whether a request may go out. True on a half-open circuit makes the caller its probe: it has to report."""
        if not self._circuits:
            return True
        taken: list[CircuitKey] = []
        for key in keys:
            circuit = self._circuits.get(key, CLOSED)
            now = self._monotonic()
            if circuit.state(now) is State.CLOSED:
                continue
            if circuit.may_probe(now):
                self._circuits[key] = probing(circuit, now)  # at once: nobody else may get in while the store is asked
                if await self._take_probe(key):
                    taken.append(key)
                    continue
                self._keep(key, replace(circuit, probe_until=now + _ASK_AGAIN_SECONDS))
            self.release(taken)
            return False
        return True

    def failed(self, keys: Sequence[CircuitKey], verdict: Verdict) -> None:
        """Count a failure against the circuit it is about; other circuits that were probed are free again."""
        self.release([key for key in keys if key[0] != verdict.counts])
        for key in keys:
            if key[0] == verdict.counts:
                change = _failure(verdict, now=self._monotonic(), policy=self._policy, jitter=self._jitter())
                self._apply(key, change)

    def succeeded(self, keys: Sequence[CircuitKey]) -> None:
        """Close what was failing."""
        if not self._circuits:
            return
        now = self._monotonic()
        for key in keys:
            circuit = self._circuits.get(key)
            if circuit is not None and succeeded(circuit, now) is CLOSED:
                self._apply(key, lambda circuit: succeeded(circuit, self._monotonic()))

    def release(self, keys: Sequence[CircuitKey]) -> None:
        """Give probes back that said nothing."""
        for key in keys:
            circuit = self._circuits.get(key)
            if circuit is not None and circuit.probe_until is not None:
                self._apply(key, released)

    async def load(self, connection: AsyncConnection) -> None:
        """Take over what is in the store."""
        rows = await routing.load_circuits(connection)
        self._circuits = {(row["scope"], row["scope_id"], row["provider"]): self._from_row(row) for row in rows}

    def _apply(self, key: CircuitKey, change: Callable[[Circuit], Circuit]) -> None:
        before = self._circuits.get(key, CLOSED)
        after = change(before)
        if after == before:
            return
        self._keep(key, after)
        if after.open_until != before.open_until and after.open_until is not None:
            log.warning(
                "circuit opened",
                scope=key[0],
                scope_id=key[1],
                provider=key[2],
                failure=after.last_failure,
                seconds=round(after.open_until - self._monotonic()),
            )
        self._saves.start(self._save(key, change), name="circuit save")

    def _keep(self, key: CircuitKey, circuit: Circuit) -> None:
        if circuit == CLOSED:
            self._circuits.pop(key, None)
        else:
            self._circuits[key] = circuit

    async def _save(self, key: CircuitKey, change: Callable[[Circuit], Circuit]) -> None:
        """Make the same change to what all replicas see."""

        def in_store(row: RowMapping | None) -> dict[str, Any] | None:
            circuit = change(self._from_row(row) if row is not None else CLOSED)
            return None if circuit == CLOSED else self._to_row(circuit)

        async with self._saving.setdefault(key, asyncio.Lock()):
            try:
                async with self._write() as connection:
                    now = self._now()
                    await routing.change_circuit(connection, key, in_store, new_id=self._new_id(), now=now)
                    await bump(connection, "routing", now)
            except OUTAGES as error:
                log.warning("circuit not saved", reason=type(error).__name__)

    async def _take_probe(self, key: CircuitKey) -> bool:
        now = self._now()
        until = now + timedelta(seconds=PROBE_SECONDS)
        lock = self._saving.setdefault(key, asyncio.Lock())
        try:
            async with lock, self._write() as connection:
                return await routing.take_probe(connection, key, owner=self._owner, now=now, until=until)
        except OUTAGES:
            return True  # each replica tries for itself while they cannot agree

    def _from_row(self, row: RowMapping) -> Circuit:
        now, clock = self._monotonic(), self._now()

        def local(instant: datetime | None) -> float | None:
            return None if instant is None else now + (instant - clock).total_seconds()

        failures = tuple(now + (datetime.fromisoformat(text) - clock).total_seconds() for text in row["failures"])
        return Circuit(
            failures, row["last_failure"], local(row["open_until"]), row["reopened"], local(row["probe_until"])
        )

    def _to_row(self, circuit: Circuit) -> dict[str, Any]:
        now, clock = self._monotonic(), self._now()

        def shared(instant: float | None) -> datetime | None:
            return None if instant is None else clock + timedelta(seconds=instant - now)

        failures = [clock + timedelta(seconds=instant - now) for instant in circuit.failures]
        return {
            "failures": [instant.isoformat() for instant in failures],
            "last_failure": circuit.last_failure,
            "opened_at": clock if circuit.open_until is not None else None,
            "open_until": shared(circuit.open_until),
            "reopened": circuit.reopened,
            "probe_until": shared(circuit.probe_until),
            "probe_owner": self._owner if circuit.probe_until is not None else None,
        }


def _failure(verdict: Verdict, *, now: float, policy: Policy, jitter: float) -> Callable[[Circuit], Circuit]:
    def change(circuit: Circuit) -> Circuit:
        return failed(circuit, verdict.kind, now=now, cool_down=verdict.cool_down, policy=policy, jitter=jitter)

    return change
