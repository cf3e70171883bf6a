"""The data plane alone, behind a real server, in front of a scripted provider; records end up in a list."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import uvicorn

from daemon.core.circuit import Policy
from daemon.core.credentials import ApiKey, BedrockCredential
from daemon.core.identity import make_access_key
from daemon.core.mapping import load_catalogue
from daemon.core.pricing import load_sheet
from daemon.core.record import UsageRecord
from daemon.gateway.accounts import Accounts, Drains
from daemon.gateway.admission import Admission
from daemon.gateway.bedrock import Bedrock, ModelMap, OpenKeys
from daemon.gateway.bodies import BodyReader
from daemon.gateway.circuits import Circuits
from daemon.gateway.endpoints import DataPlane
from daemon.gateway.exchange import Exchanges
from daemon.gateway.guard import Guard
from daemon.gateway.learned import Compatibility, Sessions
from daemon.gateway.legs import Deadlines
from daemon.gateway.plan import Plan
from daemon.gateway.routing import Routing
from daemon.gateway.spend import Budgets
from daemon.observability.tasks import Saves
from daemon.protocol.bedrock.request import Ceilings
from daemon.resources import data_file
from daemon.services.directory import Principal, SealedBedrockKey
from daemon.upstreams.aws import AwsSigner
from daemon.upstreams.bedrock import BedrockUpstream
from daemon.upstreams.http import HttpUpstream

SHEET = load_sheet(data_file("models.json").read_bytes())
CATALOGUE = load_catalogue(data_file("models.json").read_bytes())
NO_CEILINGS = Ceilings()
BEDROCK_API_KEY = "ABSK" + "Q" * 120
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
    """A running data plane. `bedrock` answers for Bedrock where the test has one."""

    port: int
    provider: Provider
    records: list[UsageRecord]
    admission: Admission
    directory: "OneKeyDirectory"
    routing: Routing
    bedrock: Provider | None

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
        self.intents: list[UsageRecord] = []

    async def settle(self, record: UsageRecord) -> None:
        self.records.append(record)

    def intend(self, record: UsageRecord) -> None:
        self.intents.append(record)


class OneKeyDirectory:
    """Knows KEY and OTHER_KEY by their hash, which is the key itself here."""

    def __init__(self, strategy: str = "plan_first", *, bedrock_key: bool = False, route: str = "auto") -> None:
        self.lookups = 0
        self.strategy = strategy
        sealed = SealedBedrockKey(UUID(int=3), UUID(int=2), "us-east-1", route, None, b"")
        self.bedrock_key = sealed if bedrock_key else None

    async def lookup(self, key_hash: str, now: datetime) -> Principal | None:
        self.lookups += 1
        if key_hash not in (KEY, OTHER_KEY):
            return None
        return Principal(UUID(int=1), "alice", UUID(int=2), "laptop", self.strategy, None, self.bedrock_key)


@contextlib.asynccontextmanager
async def nowhere() -> AsyncIterator[None]:
    """A store that is away: what is learned stays in memory."""
    raise OSError("the store is away")
    yield


async def open_key(_: SealedBedrockKey) -> BedrockCredential:
    return ApiKey(BEDROCK_API_KEY)


@contextlib.asynccontextmanager
async def plane(
    answer: Handler,
    *,
    bedrock: Handler | None = None,
    bedrock_url: str | None = None,
    strategy: str = "plan_first",
    route: str = "auto",
    plan_api_key: str | None = PLAN_API_KEY,
    first_byte: float = 5.0,
    idle: float = 5.0,
    body_budget: int = 1 << 30,
    threshold: int = 3,
    reset_timeout: float = 1800.0,
    sticky: float = 0.0,
    ceilings: Ceilings = NO_CEILINGS,
    opening: Callable[[SealedBedrockKey], Awaitable[BedrockCredential]] = open_key,
    sts_url: str | None = None,
    drains: int = 64,
) -> AsyncIterator[Plane]:
    """A data plane in front of a provider that answers with `answer`.

    Where there is a Bedrock, `bedrock` answers for it, or it is at `bedrock_url`.
    """
    provider, other = Provider(answer), Provider(bedrock) if bedrock else None
    servers = [await _served(provider)] + ([await _served(other)] if other else [])
    sink = ListSink()
    numbers = count(1)

    def now() -> datetime:
        return datetime.now(UTC)

    directory = OneKeyDirectory(strategy, bedrock_key=bool(bedrock or bedrock_url), route=route)
    admission = Admission(
        directory,
        hash_key=lambda raw: raw,
        ttl=60,
        max_stale=900,
        monotonic=time.monotonic,
        now=now,
        outages=(OSError,),
    )

    async def usage(_: Principal) -> bytes:
        return b'{"limits":[]}'

    saves = Saves()
    routing = Routing(
        Circuits(
            nowhere,  # type: ignore[arg-type]
            saves,
            policy=Policy(threshold, reset_timeout),
            owner="test",
            now=now,
            monotonic=time.monotonic,
            jitter=lambda: 0.0,
            new_id=uuid4,
        ),
        Compatibility(nowhere, saves, ttl=3600, now=now, new_id=uuid4),  # type: ignore[arg-type]
        Sessions(nowhere, saves, dwell=sticky, now=now, monotonic=time.monotonic),  # type: ignore[arg-type]
        ModelMap(CATALOGUE, {}, {}),
    )
    deadlines = Deadlines(first_byte, first_byte, idle)
    plan_upstream = HttpUpstream(provider.url, connect_timeout=1.0)
    bedrock_upstream = BedrockUpstream(
        url=other.url if other else bedrock_url or "http://127.0.0.1:9",
        signer=AwsSigner(sts_url=sts_url, now=now),
        new_upstream=lambda url: HttpUpstream(url, connect_timeout=1.0),
    )
    budgets = Budgets(
        nowhere,  # type: ignore[arg-type]
        saves,
        mode="off",
        scope="bedrock",
        zone=ZoneInfo("UTC"),
        owner="test",
        sheet=lambda: SHEET,
        now=now,
        on_store_error="open",
        every_intent=False,
        refuse_unpriced=False,
    )
    accounts = Accounts(sink, sheet=lambda: SHEET, now=now, monotonic=time.monotonic)
    app = DataPlane(
        admission=admission,
        accounts=accounts,
        exchanges=Exchanges(accounts, budgets, routing.circuits, routing.sessions),
        sessions=routing.sessions,
        guard=Guard(replicas=lambda: 1, monotonic=time.monotonic),
        plan=Plan(
            plan_upstream,
            api_key=plan_api_key,
            deadlines=deadlines,
            ceilings=ceilings,
            sessions=routing.sessions,
        ),
        bedrock=Bedrock(
            bedrock_upstream,
            keys=OpenKeys(opening, ttl=300, monotonic=time.monotonic),
            models=routing.models,
            compatibility=routing.compatibility,
            sessions=routing.sessions,
            deadlines=deadlines,
            ceilings=ceilings,
            drains=Drains(drains),
        ),
        bodies=BodyReader(body_budget),
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
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Plane(port, provider, sink.records, admission, directory, routing, other)
    finally:
        await plan_upstream.aclose()
        await bedrock_upstream.aclose()
        server.config.timeout_graceful_shutdown = 1
        server.should_exit = True
        for upstream_server in servers:
            upstream_server.close()
        await serving
        for upstream_server in servers:
            await upstream_server.wait_closed()


async def _served(provider: Provider) -> asyncio.Server:
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    return server


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
