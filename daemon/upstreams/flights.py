"""Calls that many want at once and one makes."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Flights(Generic[K, T]):
    """One call at a time for each key: whoever asks meanwhile gets the same result, also when it is a failure."""

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Future[T]] = {}

    async def join(self, key: K, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `call`, or of the one that is under way. It goes on when one of those who wait gives up."""
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.ensure_future(call())
            running.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(running)
