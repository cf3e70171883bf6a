"""Load on a system: as fast as it answers, at a fixed rate, and many paced streams. CPU is the system's own."""

import asyncio
import json
import time
from dataclasses import dataclass, field

from bench.systems import System


@dataclass
class Figures:
    """What was done, and what it cost."""

    requests: int = 0
    events: int = 0
    finished: int = 0
    cpu_seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)


def _request(system: System, size: int, *, stream: bool) -> bytes:
    filler = "x" * max(0, size - 120)
    body = json.dumps(
        {"model": system.model, "stream": stream, "max_tokens": 100, "messages": [{"role": "user", "content": filler}]}
    )
    head = (
        f"POST {system.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


class _Client(asyncio.Protocol):
    """A connection that sends one request at a time and counts bytes, not meaning."""

    def __init__(self) -> None:
        self._done: asyncio.Future[None] | None = None
        self._buffer = b""
        self._need = 0
        self.first_byte = 0.0
        self.events = 0
        self.stream = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def ask(self, request: bytes, *, stream: bool = False) -> "asyncio.Future[None]":
        self._done = asyncio.get_running_loop().create_future()
        self._buffer, self._need, self.stream, self.events, self.first_byte = b"", 0, stream, 0, 0.0
        self.transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        if not self.first_byte:
            self.first_byte = time.perf_counter()
        if self.stream:
            self.events += data.count(b"event: ")
            self._buffer = (self._buffer + data)[-64:]
            ended = self._buffer.endswith(b"0\r\n\r\n")
        else:
            self._buffer += data
            if not self._need:
                head, found, _ = self._buffer.partition(b"\r\n\r\n")
                if not found:
                    return
                assert head.startswith(b"HTTP/1.1 200"), head
                length = next(
                    int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length")
                )
                self._need = len(head) + 4 + length
            ended = len(self._buffer) >= self._need
        if ended and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("closed"))


async def _connect(system: System) -> _Client:
    _, client = await asyncio.get_running_loop().create_connection(_Client, "127.0.0.1", system.port)
    return client


async def closed_loop(system: System, *, size: int, seconds: float, clients: int) -> Figures:
    """Each client asks again as soon as it has its answer."""
    request, figures = _request(system, size, stream=False), Figures()
    connections = [await _connect(system) for _ in range(clients)]
    for connection in connections:
        await connection.ask(request)
    end, before = time.perf_counter() + seconds, system.cpu_seconds()

    async def work(connection: _Client) -> None:
        while time.perf_counter() < end:
            await connection.ask(request)
            figures.requests += 1

    await asyncio.gather(*map(work, connections))
    figures.cpu_seconds = system.cpu_seconds() - before
    for connection in connections:
        connection.transport.close()
    return figures


async def open_loop(system: System, *, size: int, rate: int, seconds: float) -> Figures:
    """Requests begin at a fixed rate, whatever the answers do; milliseconds from the moment each was due."""
    request, figures = _request(system, size, stream=False), Figures()
    idle = [await _connect(system) for _ in range(32)]
    start = time.perf_counter()

    async def one(due: float) -> None:
        connection = idle.pop() if idle else await _connect(system)
        await connection.ask(request)
        figures.milliseconds.append((time.perf_counter() - due) * 1000)
        idle.append(connection)

    tasks = []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(one(time.perf_counter())))
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.transport.close()
    return figures


async def paced_streams(system: System, *, streams: int) -> Figures:
    """Streams side by side, each with an event every tenth of a second; milliseconds to the first byte."""
    request, figures = _request(system, 60_000, stream=True), Figures()
    before = system.cpu_seconds()

    async def one(number: int) -> None:
        await asyncio.sleep(number * 0.004)
        connection = await _connect(system)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(60):
                await connection.ask(request, stream=True)
            figures.finished += 1
        except (TimeoutError, ConnectionError):
            pass
        figures.events += connection.events
        if connection.first_byte:
            figures.milliseconds.append((connection.first_byte - began) * 1000)
        connection.transport.close()

    await asyncio.gather(*(one(number) for number in range(streams)))
    figures.cpu_seconds = system.cpu_seconds() - before
    return figures
