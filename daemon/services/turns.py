"""Turns at something costly: few at once, a short queue behind them, in which the least suspicious come first."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass


class Busy(Exception):
    """There is no room in the queue, or somebody less suspicious took it."""


@dataclass(eq=False, slots=True)
class _Waiter:
    suspicion: Callable[[], int]
    turn: "asyncio.Future[bool]"


class Turns:
    """At most `at_once` have their turn, at most `waiting` wait for it."""

    def __init__(self, *, at_once: int, waiting: int) -> None:
        self._free = at_once
        self._room = waiting
        self._waiters: list[_Waiter] = []

    @asynccontextmanager
    async def turn(self, suspicion: Callable[[], int]) -> AsyncIterator[None]:
        """Wait for a turn and have it. `suspicion` is asked again whenever somebody has to be chosen.

        Raises:
            Busy.
        """
        await self._enter(suspicion)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, suspicion: Callable[[], int]) -> None:
        if self._free:
            self._free -= 1
            return
        waiter = _Waiter(suspicion, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        if len(self._waiters) > self._room:
            # of equals the last to come goes
            _, worst = max(enumerate(self._waiters), key=lambda pair: (pair[1].suspicion(), pair[0]))
            self._waiters.remove(worst)
            if not worst.turn.done():
                worst.turn.set_result(False)
        try:
            came = await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.result():
                self._leave()  # the turn came at the same moment
            raise
        if not came:
            raise Busy

    def _leave(self) -> None:
        while self._waiters:
            best = min(self._waiters, key=lambda waiter: waiter.suspicion())  # of equals the first to come
            self._waiters.remove(best)
            if not best.turn.done():
                best.turn.set_result(True)
                return
        self._free += 1
