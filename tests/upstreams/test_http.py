"""The data plane's HTTP client against a scripted server on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from daemon.upstreams.base import Abortable, BodyEnd, Failure, FailureKind, OutboundRequest, Reply
from daemon.upstreams.connection import BUFFER_LIMIT
from daemon.upstreams.http import HttpUpstream

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ScriptedServer:
    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = asyncio.Event()

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        request = head + await reader.readexactly(length)
        self.requests.append(request)
        return request


@asynccontextmanager
async def scripted(
    script: Callable[[ScriptedServer], Script], **options: float
) -> AsyncIterator[tuple[HttpUpstream, ScriptedServer]]:
    state = ScriptedServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        try:
            await script(state)(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            state.closed.set()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = HttpUpstream(f"http://127.0.0.1:{port}/base", connect_timeout=options.get("connect_timeout", 2.0))
    try:
        yield upstream, state
    finally:
        await upstream.aclose()
        server.close()
        await server.wait_closed()


def outbound(body: bytes = b"{}", *, first_byte: float = 5.0, idle: float = 5.0) -> OutboundRequest:
    return OutboundRequest(
        method=b"POST",
        path=b"/v1/messages?beta=true",
        headers=[(b"x-test", b"1")],
        body=body,
        first_byte_timeout=first_byte,
        idle_timeout=idle,
    )


async def read_all(reply: Reply) -> tuple[bytes, Failure | None]:
    received = b""
    while True:
        chunk = await reply.read()
        if isinstance(chunk, BodyEnd):
            return received, chunk.failure
        received += chunk


def answering(*pieces: bytes, close: bool = False) -> Callable[[ScriptedServer], Script]:
    def of(state: ScriptedServer) -> Script:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await state.request(reader)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if close:
                    return

        return script

    return of


SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nhello"


@pytest.mark.parametrize(
    ("answer", "close"),
    [
        (SIZED, False),
        (CHUNKED, False),
        (UNTIL_CLOSE, True),
        (b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + SIZED, False),
    ],
    ids=["sized", "chunked", "until close", "after early hints"],
)
async def test_a_body_arrives_whole_however_it_is_framed(answer: bytes, close: bool) -> None:
    async with scripted(answering(*(answer[i : i + 7] for i in range(0, len(answer), 7)), close=close)) as (
        upstream,
        _,
    ):
        reply = await upstream.open(outbound(), Abortable())
        assert not isinstance(reply, Failure)
        assert reply.status == 200
        assert await read_all(reply) == (b"hello", None)
        assert await reply.read() == BodyEnd()


async def test_the_request_goes_out_as_written_below_the_base_path() -> None:
    async with scripted(answering(SIZED)) as (upstream, state):
        reply = await upstream.open(outbound(b'{"a":1}'), Abortable())
        assert not isinstance(reply, Failure)
        host = state.requests[0].split(b"\r\n")[1]
        assert host.startswith(b"host: 127.0.0.1:")
        assert state.requests[0].replace(host, b"HOST") == (
            b'POST /base/v1/messages?beta=true HTTP/1.1\r\nHOST\r\nx-test: 1\r\ncontent-length: 7\r\n\r\n{"a":1}'
        )
        assert (b"x-a", b"b") in reply.headers


async def test_a_connection_is_kept_and_used_again() -> None:
    async with scripted(answering(SIZED)) as (upstream, state):
        for _ in range(3):
            reply = await upstream.open(outbound(), Abortable())
            assert not isinstance(reply, Failure)
            assert await read_all(reply) == (b"hello", None)
        assert (state.connections, len(state.requests)) == (1, 3)


async def test_a_connection_that_the_provider_closed_while_idle_is_not_used() -> None:
    async with scripted(answering(SIZED, close=True)) as (upstream, state):
        for _ in range(2):
            reply = await upstream.open(outbound(), Abortable())
            assert not isinstance(reply, Failure)
            assert await read_all(reply) == (b"hello", None)
            await state.closed.wait()
            state.closed.clear()
            await asyncio.sleep(0.05)
        assert state.connections == 2


@pytest.mark.parametrize("answer", [SIZED[:-1], CHUNKED[:-3], CHUNKED[:-12]])
async def test_a_body_that_ends_early_says_so(answer: bytes) -> None:
    async with scripted(answering(answer, close=True)) as (upstream, _):
        reply = await upstream.open(outbound(), Abortable())
        assert not isinstance(reply, Failure)
        received, failure = await read_all(reply)
        assert b"hello".startswith(received)
        assert failure is not None
        assert failure.kind is FailureKind.CUT


async def test_a_close_without_an_answer_is_a_cut() -> None:
    async with scripted(answering(b"", close=True)) as (upstream, state):
        reply = await upstream.open(outbound(), Abortable())
        assert isinstance(reply, Failure)
        assert reply.kind is FailureKind.CUT
        assert len(state.requests) == 1


@pytest.mark.parametrize("junk", [b"not http at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000])
async def test_what_is_not_http_is_a_protocol_failure(junk: bytes) -> None:
    async with scripted(answering(junk)) as (upstream, _):
        reply = await upstream.open(outbound(), Abortable())
        assert isinstance(reply, Failure)
        assert reply.kind is FailureKind.PROTOCOL


def silent(state: ScriptedServer) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await state.request(reader)
        await reader.read()

    return script


async def test_a_provider_that_never_answers_is_given_up_at_the_deadline() -> None:
    async with scripted(silent) as (upstream, state):
        reply = await upstream.open(outbound(first_byte=0.05), Abortable())
        assert isinstance(reply, Failure)
        assert reply.kind is FailureKind.FIRST_BYTE_TIMEOUT
        await asyncio.wait_for(state.closed.wait(), 2)


def stalling(state: ScriptedServer) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await state.request(reader)
        writer.write(SIZED[:-2])
        await reader.read()

    return script


async def test_a_body_that_stalls_is_given_up_at_the_idle_deadline() -> None:
    async with scripted(stalling) as (upstream, state):
        reply = await upstream.open(outbound(idle=0.05), Abortable())
        assert not isinstance(reply, Failure)
        received, failure = await read_all(reply)
        assert received == b"hel"
        assert failure is not None
        assert failure.kind is FailureKind.IDLE_TIMEOUT
        await asyncio.wait_for(state.closed.wait(), 2)


@pytest.mark.parametrize("script", [silent, stalling], ids=["before the head", "in the body"])
async def test_an_abort_closes_the_connection_at_once(script: Callable[[ScriptedServer], Script]) -> None:
    async with scripted(script) as (upstream, state):
        line = Abortable()
        asyncio.get_running_loop().call_later(0.05, line.abort)
        reply = await upstream.open(outbound(), line)
        failure = reply if isinstance(reply, Failure) else (await read_all(reply))[1]
        assert failure is not None
        assert failure.kind is FailureKind.ABORTED
        await asyncio.wait_for(state.closed.wait(), 2)


async def test_an_abort_after_the_end_leaves_the_next_request_alone() -> None:
    async with scripted(answering(SIZED)) as (upstream, state):
        first = Abortable()
        reply = await upstream.open(outbound(), first)
        assert not isinstance(reply, Failure)
        await read_all(reply)
        opening = asyncio.ensure_future(upstream.open(outbound(), Abortable()))
        await asyncio.sleep(0)
        first.abort()
        second = await opening
        assert not isinstance(second, Failure)
        assert await read_all(second) == (b"hello", None)
        assert state.connections == 1


async def test_not_reading_pushes_back_on_the_provider() -> None:
    total = 64 * 1024 * 1024
    sent = 0

    def endless(state: ScriptedServer) -> Script:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await state.request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
            while sent < total:
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 65_536
            await reader.read()

        return script

    async with scripted(endless) as (upstream, _):
        reply = await upstream.open(outbound(), Abortable())
        assert not isinstance(reply, Failure)
        await asyncio.sleep(0.2)
        chunk = await reply.read()
        assert isinstance(chunk, bytes)
        assert len(chunk) <= BUFFER_LIMIT + 256 * 1024
        assert sent < total // 2
        received, failure = await read_all(reply)
        assert failure is None
        assert len(chunk) + len(received) == total


async def test_an_unreachable_provider_is_named() -> None:
    upstream = HttpUpstream("http://127.0.0.1:9", connect_timeout=1.0)
    reply = await upstream.open(outbound(), Abortable())
    assert isinstance(reply, Failure)
    assert reply.kind is FailureKind.CONNECT
    assert "127.0.0.1:9" in reply.detail
