"""Clients that leave: Bedrock bills the whole answer, so it is read to its end; Anthropic's is given up at once."""

import asyncio
import gc
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from daemon.core.credentials import ApiKey
from daemon.core.record import Ended
from daemon.simulator.bedrock import BedrockSimulator
from daemon.simulator.script import Step, ToolUse
from tests.support.plane import OTHER_KEY, Arrived, Plane, plane, post, sse_answer
from tests.support.simulator import logged, running_bedrock
from tests.support.wire import EVENTS, PATH, ROUTES, TOKENS, event, head, relayed, request, text_of, whole, wire

ANSWER = Step(text="one two three", tool_uses=(ToolUse("Bash", {"command": "ls"}),), usage={"input": 21, "output": 33})


async def no_plan(_: Arrived, writer: asyncio.StreamWriter) -> None:
    writer.write(whole(529, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'))


async def leave(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """End a connection, politely or not."""
    if reset:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
    await asyncio.sleep(0)


@asynccontextmanager
async def leaving_no_tasks() -> AsyncIterator[None]:
    """Nothing that was started inside goes on for longer than five seconds, but for connections that are kept."""
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(5):
        while {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before} - {"Provider.serve"}:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("route", ROUTES)
async def test_a_client_that_leaves_at_any_event_has_the_whole_answer_on_its_books(route: str, reset: bool) -> None:
    async with (
        running_bedrock(BedrockSimulator(strict=False)) as (simulator, url),
        plane(no_plan, bedrock_url=url, strategy="bedrock_only", route=route) as running,
    ):
        simulator.script(ANSWER)
        complete = await running.ask(post(PATH, request()))
        events = complete.count(b"\nevent: ") + complete.startswith(b"event: ")
        assert events > 9
        await running.settled(1)
        for after in range(events + 1):
            async with leaving_no_tasks():
                delayed = {"delay": 0.1} if after == 0 else {"event_delay": 0.01}
                simulator.script(
                    Step(**{name: getattr(ANSWER, name) for name in ("text", "tool_uses", "usage")}, **delayed)
                )
                reader, writer = await running.raw(post(PATH, request()))
                if after == 0:
                    await _arrived(simulator)
                seen = b""
                while seen.count(b"event: ") < after:
                    data = await reader.read(1 << 16)
                    assert data
                    seen += data
                await leave(writer, reset=reset)
                record = (await running.settled(after + 2))[-1]
                entry = (await logged(simulator, after + 2))[-1]
            assert entry["ended"] == "finished", after
            assert (record.tokens.input, record.tokens.output, record.estimated) == (21, 33, False)
            assert record.upstream_request_id == entry["request_id"]
            # The last events are on their way while the client leaves: then it has left after the end.
            assert record.ended is Ended.CLIENT_LEFT or after >= events - 1


async def _arrived(simulator: BedrockSimulator) -> None:
    """Until the simulator has taken its step, which is when it has the request."""
    async with asyncio.timeout(5):
        while simulator._steps:
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("route", ROUTES)
async def test_a_client_that_leaves_before_a_whole_answer_has_it_on_its_books(route: str, reset: bool) -> None:
    async with (
        running_bedrock(BedrockSimulator(strict=False)) as (simulator, url),
        plane(no_plan, bedrock_url=url, strategy="bedrock_only", route=route) as running,
        leaving_no_tasks(),
    ):
        simulator.script(Step(text="all at once", usage={"input": 21, "output": 33}, delay=0.15))
        _, writer = await running.raw(post(PATH, request(stream=False)))
        await _arrived(simulator)
        await leave(writer, reset=reset)
        [record] = await running.settled(1)
        [entry] = await logged(simulator)
    assert entry["ended"] == "finished"
    assert (record.ended, record.tokens.input, record.tokens.output) == (Ended.CLIENT_LEFT, 21, 33)
    assert not record.estimated


async def test_what_bedrock_refuses_after_the_client_has_left_costs_nothing_and_asks_nobody_else() -> None:
    async with (
        running_bedrock(BedrockSimulator(strict=False)) as (simulator, url),
        plane(no_plan, bedrock_url=url, strategy="bedrock_first", route="messages") as running,
    ):
        simulator.script(Step(aws_error="ThrottlingException", message="Too many tokens", delay=0.1))
        _, writer = await running.raw(post(PATH, request()))
        await _arrived(simulator)
        await leave(writer, reset=False)
        [record] = await running.settled(1)
        assert running.provider.requests == []
    assert (record.ended, record.cost.total_nano, record.estimated) == (Ended.CLIENT_LEFT, 0, False)
    assert [attempt.failure for attempt in record.attempts] == ["rate_limited"]


async def test_bedrock_is_not_asked_for_a_client_that_left_while_its_key_was_opened() -> None:
    opening, opened = asyncio.Event(), asyncio.Event()

    async def slow(_: Any) -> ApiKey:
        opening.set()
        await opened.wait()
        return ApiKey("ABSK" + "Q" * 120)

    async with (
        running_bedrock(BedrockSimulator(strict=False)) as (simulator, url),
        plane(no_plan, bedrock_url=url, strategy="bedrock_first", opening=slow) as running,
    ):
        _, writer = await running.raw(post(PATH, request()))
        await opening.wait()
        await leave(writer, reset=False)
        await asyncio.sleep(0.05)
        opened.set()
        [record] = await running.settled(1)
        assert simulator.log == []
        assert running.provider.requests == []
    assert (record.ended, record.cost.total_nano) == (Ended.CLIENT_LEFT, 0)


async def test_so_many_answers_are_read_on_at_once_and_the_rest_is_given_up_and_estimated() -> None:
    go, closed = asyncio.Event(), 0
    data = b"".join(wire("invoke"))
    first = len(b"".join(wire("invoke")[:3]))

    async def answer(arrived: Arrived, writer: asyncio.StreamWriter) -> None:
        nonlocal closed
        try:
            writer.write(head("invoke", len(data)) + data[:first])
            await writer.drain()
            if text_of(arrived.body) == "wait":
                await go.wait()
            writer.write(data[first:])
            await writer.drain()
        except asyncio.CancelledError:
            closed += 1
            raise

    async def leaves(running: Plane) -> None:
        reader, writer = await running.raw(post(PATH, request("wait")))
        await reader.readuntil("😀".encode())
        await leave(writer, reset=False)

    gc.disable()  # a place is free when its answer has ended, not when memory is looked through
    try:
        async with (
            plane(no_plan, bedrock=answer, strategy="bedrock_only", route="invoke", drains=3) as running,
            leaving_no_tasks(),
        ):
            for _ in range(2):
                go.clear()
                before, seen = len(running.records), closed
                for _ in range(5):
                    await leaves(running)
                given_up = (await running.settled(before + 2))[before:]
                async with asyncio.timeout(1):
                    while closed < seen + 2:
                        await asyncio.sleep(0.005)
                assert all(record.estimated and record.ended is Ended.CLIENT_LEFT for record in given_up)
                assert all(record.tokens.input == 9 and record.tokens.output >= 1 for record in given_up)
                go.set()
                read_on = (await running.settled(before + 5))[before + 2 :]
                assert [(record.tokens, record.estimated) for record in read_on] == [(TOKENS, False)] * 3
                assert closed == seen + 2
            assert b"message_stop" in await running.ask(post(PATH, request("now")))
    finally:
        gc.enable()


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("head_sent", [False, True], ids=["before the head", "in the stream"])
async def test_on_the_plan_the_connection_is_closed_within_a_second(head_sent: bool, reset: bool) -> None:
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def plan(_: Arrived, writer: asyncio.StreamWriter) -> None:
        try:
            if head_sent:
                data = relayed(EVENTS[:3])
                writer.write(sse_answer(data, cut=True))
                await writer.drain()
            arrived.set()
            await asyncio.Event().wait()
        finally:
            let_go.set()

    async with plane(plan, bedrock=no_plan, strategy="plan_first") as running, leaving_no_tasks():
        reader, writer = await running.raw(post(PATH, request()))
        await arrived.wait()
        if head_sent:
            await reader.readuntil(event(EVENTS[2])[-9:])
        started = time.monotonic()
        await leave(writer, reset=reset)
        async with asyncio.timeout(1):
            await let_go.wait()
        [record] = await running.settled(1)
        assert time.monotonic() - started < 2
        assert running.bedrock is not None
        assert running.bedrock.requests == []
    assert (record.ended, record.provider, record.estimated) == (Ended.CLIENT_LEFT, "plan", True)
    assert record.cost.total_nano > 0


async def test_leaving_after_bedrock_has_failed_ends_the_plan_too() -> None:
    """What was worth reading on was Bedrock's answer; the plan's is not."""
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def plan(_: Arrived, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(sse_answer(relayed(EVENTS[:3]), cut=True))
            await writer.drain()
            arrived.set()
            await asyncio.Event().wait()
        finally:
            let_go.set()

    async def busy(_: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(503, b'{"message":"Busy"}', extra="x-amzn-errortype: ServiceUnavailableException\r\n"))

    async with plane(plan, bedrock=busy, strategy="bedrock_first") as running:
        path = PATH.rpartition("/ak/")[0] + f"/ak/{OTHER_KEY}/v1/messages"
        _, writer = await running.raw(post(path, request()))
        await arrived.wait()
        await leave(writer, reset=False)
        async with asyncio.timeout(1):
            await let_go.wait()
        [record] = await running.settled(1)
    assert (record.provider, record.ended) == ("plan", Ended.CLIENT_LEFT)
