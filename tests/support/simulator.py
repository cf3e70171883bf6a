"""The simulated provider in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from daemon.simulator.anthropic import AnthropicSimulator
from daemon.simulator.server import config


@asynccontextmanager
async def running_simulator() -> AsyncIterator[tuple[AnthropicSimulator, str]]:
    """A simulator and its URL."""
    simulator = AnthropicSimulator()
    server = uvicorn.Server(config(simulator, 0))
    serving = asyncio.ensure_future(server._serve())
    while not server.started:
        await asyncio.sleep(0.002)
    try:
        yield simulator, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
