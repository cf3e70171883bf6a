"""Runs a simulator behind a real server on loopback."""

import socket
import struct
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from daemon.simulator.anthropic import AnthropicSimulator
from daemon.simulator.base import ABORT, Simulator
from daemon.simulator.bedrock import BedrockSimulator

PROVIDERS = {"anthropic": AnthropicSimulator, "bedrock": BedrockSimulator}


class _Abortable(HttpToolsProtocol):
    """HTTP whose application can reset the connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[str, Any] = {ABORT: self._reset}
        self.scope["extensions"] = extensions

    def _reset(self) -> None:
        connection = self.transport.get_extra_info("socket")
        if connection is not None:  # without lingering, closing sends RST instead of FIN
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def config(simulator: Simulator, port: int) -> uvicorn.Config:
    """Server settings for a simulator; port 0 takes a free one."""
    return uvicorn.Config(
        simulator,
        host="127.0.0.1",
        port=port,
        http=_Abortable,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )


def run(port: int, log_path: Path | None = None, provider: str = "anthropic") -> None:
    """Serve until a signal."""
    uvicorn.Server(config(PROVIDERS[provider](log_path), port)).run()
