"""Whether the event loop goes on: how late it was while something else happened."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def ticking(every: float = 0.01) -> AsyncIterator[list[float]]:
    """By how many seconds the loop was late at each tick, while the body runs."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(every)
            late.append(time.monotonic() - before - every)

    ticker = asyncio.ensure_future(tick())
    try:
        yield late
    finally:
        ticker.cancel()
