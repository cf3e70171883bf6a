"""Bad HTTP over raw sockets: refused before the application sees it, answered in the one error shape."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn

from daemon.protocol.asgi import Receive, Scope, Send
from daemon.web.http_protocol import EdgeLimits, hardened_protocol
from tests.support.plane import parts

LIMITS = EdgeLimits(header_seconds=1.0, body_stall_seconds=0.5, write_stall_seconds=0.5)


@dataclass
class Edge:
    port: int
    seen: list[str] = field(default_factory=list)

    async def ask(self, data: bytes, *, wait: float = 5.0) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            async with asyncio.timeout(wait):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def edge(limits: EdgeLimits = LIMITS, hosts: frozenset[str] = frozenset()) -> AsyncIterator[Edge]:
    running = Edge(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        running.seen.append(scope["path"])
        if scope["path"] == "/deny":
            body = b"no"
        else:
            body = b""
            while True:
                part = await receive()
                if part["type"] == "http.disconnect":
                    return
                body += part.get("body", b"")
                if not part.get("more_body"):
                    break
        if scope["path"] == "/flood":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(400):
                await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            running.seen.append("flooded")
        else:
            headers = [(b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["path"] == "/flood" else body})

    config = uvicorn.Config(
        app,
        port=0,
        http=hardened_protocol(limits, hosts, lambda: "req_test"),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server._serve())
    while not server.started:
        await asyncio.sleep(0.002)
    running.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.should_exit = True
        await serving


GOOD = b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
H = b"Host: x\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", {400}),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 3, 3\r\n\r\nabc", {400}),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +3\r\n\r\nabc", {400}),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: -1\r\n\r\nabc", {400}),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 10000000000000000000000\r\n\r\nabc", {400}),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", {400, 501}),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", {400}),
        (b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400, 501}),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nx\r\n", {400}),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n", {400}),
        (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n11111111111111111\r\nabc\r\n", {400}),
        (b"GET / HTTP/1.1\r\n" + H + b"A: b\x00c\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n folded\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\n" + H + b"A: b\rc\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\nA: b\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\nHost: x/v1/messages#@e\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\nHost: x?\r\n\r\n", {400}),
        (b"GET http://x/ HTTP/1.1\r\n" + H + b"\r\n", {400}),
        (b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n", {400}),
        (b"CONNECT x:1 HTTP/1.1\r\n" + H + b"\r\n", {400, 405}),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400}),
        (b"GET / HTTP/1.1\r\n" + H + b"A: " + b"b" * 70_000 + b"\r\n\r\n", {431}),
        (b"GET / HTTP/1.1\r\n" + H + b"A: " + b"b" * 2_000_000 + b"\r\n\r\n", {431}),
        (b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n" * 2_000 + b"\r\n", {431}),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + H + b"\r\n", {414}),
        (b"GET //a HTTP/1.1\r\n" + H + b"\r\n", {400}),
        (b"GET /a/../b HTTP/1.1\r\n" + H + b"\r\n", {400}),
        (b"GET /a/./b HTTP/1.1\r\n" + H + b"\r\n", {400}),
        (b"GET /a/%2e%2e/b HTTP/1.1\r\n" + H + b"\r\n", {400}),
        (b"GET /a%2Fb HTTP/1.1\r\n" + H + b"\r\n", {400}),
        (b"GET /a;x HTTP/1.1\r\n" + H + b"\r\n", {400}),
        (b"GET /a%00b HTTP/1.1\r\n" + H + b"\r\n", {400}),
        (b"GET /a%0d%0ab HTTP/1.1\r\n" + H + b"\r\n", {400}),
        (b"GET /a%ffb HTTP/1.1\r\n" + H + b"\r\n", {400}),
        (b"GET /a\xffb HTTP/1.1\r\n" + H + b"\r\n", {400}),
        (b"GET / HTTP/1.1\r\n" + H + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\n" + H + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", {400}),
    ],
)
async def test_a_malformed_request_never_reaches_the_application(request_bytes: bytes, statuses: set[int]) -> None:
    async with edge() as running:
        status, headers, body = parts(await running.ask(request_bytes))
        assert status in statuses
        document = json.loads(body)
        assert document["type"] == "error"
        assert document["request_id"] == headers["request-id"] == "req_test"
        assert headers["content-type"] == "application/json"
        assert len(document["error"]["message"]) < 200
        assert running.seen == [] or b"chunked\r\n\r\n" in request_bytes


async def test_a_good_request_passes_whole_or_in_pieces() -> None:
    async with edge() as running:
        assert parts(await running.ask(GOOD))[2] == b"hi"
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        for byte in GOOD:
            writer.write(bytes([byte]))
            await writer.drain()
        assert parts(await reader.read())[2] == b"hi"
        writer.close()


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n"])
async def test_headers_that_do_not_come_are_given_up(start: bytes) -> None:
    async with edge() as running:
        status, _, _ = parts(await running.ask(start, wait=10))
        assert status == 408
        assert running.seen == []


async def test_a_body_that_stalls_is_given_up() -> None:
    async with edge() as running:
        await running.ask(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello", wait=10)
        assert running.seen == ["/a"]


async def test_a_client_that_does_not_read_is_dropped() -> None:
    async with edge() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
        writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while "flooded" not in running.seen:
                await asyncio.sleep(0.02)
        writer.close()


async def test_a_refusal_before_the_body_reaches_the_client() -> None:
    async with edge() as running:
        body = b"x" * 900_000
        head = b"POST /deny HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        assert parts(await running.ask(head + body))[2] == b"no"
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"POST /deny HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert b"100" not in (await reader.readuntil(b"no")).split(b"\r\n")[0]
        writer.close()


async def test_a_host_that_is_not_ours_is_refused() -> None:
    async with edge(hosts=frozenset({"proxy.test"})) as running:
        assert parts(await running.ask(GOOD))[0] == 400
        assert parts(await running.ask(GOOD.replace(b"Host: x", b"Host: proxy.test:8000")))[0] == 200


async def test_connections_are_capped_and_room_comes_back() -> None:
    async with edge(EdgeLimits(connections=2)) as running:
        held = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(2)]

        async def status() -> int:
            return parts(await running.ask(GOOD))[0]

        async with asyncio.timeout(10):
            while await status() != 529:
                await asyncio.sleep(0.01)
            held[0][1].close()
            while await status() != 200:
                await asyncio.sleep(0.01)
        held[1][1].close()


async def test_two_requests_on_one_connection_are_answered_in_order() -> None:
    async with edge() as running:
        first = b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\none"
        answer = await running.ask(first + GOOD)
        assert answer.index(b"one") < answer.index(b"hi")
