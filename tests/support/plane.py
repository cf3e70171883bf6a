"""The data plane alone, behind a real server, in front of a scripted provider; records end up in a list."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from uuid import UUID

import uvicorn

from daemon.core.identity import make_access_key
from daemon.core.pricing import load_sheet
from daemon.core.record import UsageRecord
from daemon.gateway.admission import Admission
from daemon.gateway.bodies import BodyReader
from daemon.gateway.endpoints import DataPlane, Deadlines
from daemon.gateway.exchange import Accounts
from daemon.resources import data_file
from daemon.services.directory import Principal
from daemon.upstreams.http import HttpUpstream

SHEET = load_sheet(data_file("models.json").read_bytes())
KEY = make_access_key(bytes(range(32)))
OTHER_KEY = make_access_key(bytes(range(1, 33)))
UNKNOWN_KEY = make_access_key(bytes(32))
PLAN_API_KEY = "sk-ant-api03-plan-key-of-the-tests"
Handler = Callable[["Arrived", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Arrived:
    """A request as the provider got it."""

    head: bytes
    body: bytes

    @property
    def target(self) -> str:
        return self.head.split(b" ")[1].decode()

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}


@dataclass
class Provider:
    """A scripted provider: `answer` writes to the socket, connection by connection."""

    answer: Handler
    requests: list[Arrived] = field(default_factory=list)
    closed: int = 0
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = Arrived(head, b"")
                request.body = await reader.readexactly(int(request.headers.get("content-length", "0")))
                self.requests.append(request)
                answering = asyncio.ensure_future(self.answer(request, writer))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait([answering, gone], return_when=asyncio.FIRST_COMPLETED)
                if gone.done() or writer.is_closing():
                    answering.cancel()
                    break
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed += 1
            writer.close()


@dataclass
class Plane:
    """A running data plane."""

    port: int
    provider: Provider
    records: list[UsageRecord]
    admission: Admission

    async def raw(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        return reader, writer

    async def ask(self, request: bytes) -> bytes:
        """Send a request that closes the connection, return all bytes of the answer."""
        reader, writer = await self.raw(request)
        answer = await reader.read()
        writer.close()
        return answer

    async def settled(self, number: int) -> list[UsageRecord]:
        """The records, once there are `number` of them."""
        async with asyncio.timeout(10):
            while len(self.records) < number:
                await asyncio.sleep(0.005)
        return self.records


class ListSink:
    def __init__(self) -> None:
        self.records: list[UsageRecord] = []

    async def settle(self, record: UsageRecord) -> None:
        self.records.append(record)


class OneKeyDirectory:
    """Knows KEY and OTHER_KEY by their hash, which is the key itself here."""

    def __init__(self) -> None:
        self.lookups = 0

    async def lookup(self, key_hash: str, now: datetime) -> Principal | None:
        self.lookups += 1
        if key_hash not in (KEY, OTHER_KEY):
            return None
        return Principal(UUID(int=1), "alice", UUID(int=2), "laptop", "plan_first", None)


@contextlib.asynccontextmanager
async def plane(
    answer: Handler,
    *,
    plan_api_key: str | None = PLAN_API_KEY,
    first_byte: float = 5.0,
    idle: float = 5.0,
    body_budget: int = 1 << 30,
) -> AsyncIterator[Plane]:
    """A data plane in front of a provider that answers with `answer`."""
    provider = Provider(answer)
    upstream_server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{upstream_server.sockets[0].getsockname()[1]}"
    sink = ListSink()
    numbers = count(1)

    def now() -> datetime:
        return datetime.now(UTC)

    admission = Admission(
        OneKeyDirectory(),
        hash_key=lambda raw: raw,
        ttl=60,
        max_stale=900,
        monotonic=time.monotonic,
        now=now,
        outages=(OSError,),
    )

    async def usage(_: Principal) -> bytes:
        return b'{"limits":[]}'

    upstream = HttpUpstream(provider.url, connect_timeout=1.0)
    app = DataPlane(
        admission=admission,
        accounts=Accounts(sink, sheet=lambda: SHEET, now=now, monotonic=time.monotonic),
        plan=upstream,
        plan_api_key=plan_api_key,
        bodies=BodyReader(body_budget),
        deadlines=Deadlines(first_byte, first_byte, idle),
        usage=usage,
        now=now,
        monotonic=time.monotonic,
        new_request_id=lambda: f"req_{next(numbers):032x}",
    )
    config = uvicorn.Config(
        app, port=0, lifespan="off", log_config=None, access_log=False, server_header=False, date_header=False
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server._serve())
    while not server.started:
        await asyncio.sleep(0.002)
    try:
        yield Plane(server.servers[0].sockets[0].getsockname()[1], provider, sink.records, admission)
    finally:
        await upstream.aclose()
        server.config.timeout_graceful_shutdown = 1
        server.should_exit = True
        upstream_server.close()
        await serving
        await upstream_server.wait_closed()


def post(path: str, body: bytes, headers: dict[str, str] | None = None, *, close: bool = True) -> bytes:
    """A POST as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def unchunk(body: bytes) -> bytes:
    """The content of a chunked body; what is missing at its end is ignored."""
    content = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        if not length:
            break
        content += rest[:length]
        body = rest[length + 2 :]
    return content


def parts(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and decoded body of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("transfer-encoding") == "chunked":
        body = unchunk(body)
    return int(lines[0].split(" ")[1]), headers, body


def sse_answer(stream: bytes, *, cut: bool = False) -> bytes:
    """A provider's 200 with an event stream; `cut` announces one byte more than it sends."""
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nrequest-id: req_upstream\r\n"
        b"x-new-header: kept\r\ncontent-length: %d\r\n\r\n" % (len(stream) + cut)
    ) + stream
