"""Runs the simulator behind a real server on loopback."""

from pathlib import Path

import uvicorn

from daemon.simulator.anthropic import AnthropicSimulator


def config(simulator: AnthropicSimulator, port: int) -> uvicorn.Config:
    """Server settings for the simulator; port 0 takes a free one."""
    return uvicorn.Config(
        simulator,
        host="127.0.0.1",
        port=port,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )


def run(port: int, log_path: Path | None = None) -> None:
    """Serve until a signal."""
    uvicorn.Server(config(AnthropicSimulator(log_path), port)).run()
