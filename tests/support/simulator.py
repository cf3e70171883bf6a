"""The simulated providers in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import uvicorn

from daemon.simulator.anthropic import AnthropicSimulator
from daemon.simulator.base import Simulator
from daemon.simulator.bedrock import BedrockSimulator
from daemon.simulator.server import config

AnySimulator = TypeVar("AnySimulator", bound=Simulator)


@asynccontextmanager
async def running_simulator(
    simulator: AnthropicSimulator | None = None,
) -> AsyncIterator[tuple[AnthropicSimulator, str]]:
    """A simulated Anthropic and its URL."""
    async with _running(simulator or AnthropicSimulator()) as running:
        yield running


@asynccontextmanager
async def running_bedrock(simulator: BedrockSimulator | None = None) -> AsyncIterator[tuple[BedrockSimulator, str]]:
    """A simulated Bedrock, a strict one unless another is given, and its URL."""
    async with _running(simulator or BedrockSimulator()) as running:
        yield running


async def logged(simulator: Simulator, count: int = 1) -> list[dict[str, Any]]:
    """The log once it has so many entries: a client may be done with an answer before the simulator is."""
    async with asyncio.timeout(5):
        while len(simulator.log) < count:
            await asyncio.sleep(0.002)
    return simulator.log


@asynccontextmanager
async def _running(simulator: AnySimulator) -> AsyncIterator[tuple[AnySimulator, str]]:
    """The simulator behind a server that starts and stops without the ticks of uvicorn's own loop."""
    settings = config(simulator, 0)
    settings.load()
    server = uvicorn.Server(settings)
    server.lifespan = settings.lifespan_class(settings)
    await server.startup()
    try:
        yield simulator, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        await _stop(server)


async def _stop(server: uvicorn.Server) -> None:
    for listener in server.servers:
        listener.close()
    state = server.server_state
    for connection in list(state.connections):
        connection.shutdown()
    deadline = asyncio.get_running_loop().time() + 1.0
    while (state.connections or state.tasks) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.002)
    for task in state.tasks:
        task.cancel()
    await asyncio.gather(*state.tasks, return_exceptions=True)
