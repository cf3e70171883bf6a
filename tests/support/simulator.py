"""The simulated providers in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import uvicorn

from daemon.simulator.anthropic import AnthropicSimulator
from daemon.simulator.base import Simulator
from daemon.simulator.bedrock import BedrockSimulator
from daemon.simulator.server import config

AnySimulator = TypeVar("AnySimulator", bound=Simulator)


@asynccontextmanager
async def running_simulator() -> AsyncIterator[tuple[AnthropicSimulator, str]]:
    """A simulated Anthropic and its URL."""
    async with _running(AnthropicSimulator()) as running:
        yield running


@asynccontextmanager
async def running_bedrock(simulator: BedrockSimulator | None = None) -> AsyncIterator[tuple[BedrockSimulator, str]]:
    """A simulated Bedrock, a strict one unless another is given, and its URL."""
    async with _running(simulator or BedrockSimulator()) as running:
        yield running


@asynccontextmanager
async def _running(simulator: AnySimulator) -> AsyncIterator[tuple[AnySimulator, str]]:
    server = uvicorn.Server(config(simulator, 0))
    serving = asyncio.ensure_future(server._serve())
    while not server.started:
        await asyncio.sleep(0.002)
    try:
        yield simulator, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
