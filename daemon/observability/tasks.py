"""Background tasks that are named, referenced, and whose failures are seen."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger()
_running: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Start a task. It is kept alive until it ends; a failure is logged with its name."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _running.add(task)
    task.add_done_callback(_ended)
    return task


async def stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended: it may be in the middle of something that others take down next."""
    while not task.done():  # a cancellation can get lost in what the task is waiting for
        task.cancel()
        await asyncio.wait([task], timeout=1.0)


class Saves:
    """Short tasks that nobody waits for, but for the stop: what they write must not be lost with the store."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        """Start one."""
        task = spawn(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def finished(self) -> None:
        """Wait for all that are under way."""
        while self._running:
            await asyncio.wait(self._running)


def _ended(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task failed", task=task.get_name(), exc_info=error)
