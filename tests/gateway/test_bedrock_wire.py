"""Bedrock's two wires through the data plane: whatever happens on them, the client gets a prefix and a visible end."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from daemon.core.record import Ended
from daemon.gateway import relay
from daemon.protocol.anthropic.errors import error_event
from daemon.simulator import eventstream
from tests.support.plane import Arrived, Plane, parts, plane, post, sse_answer
from tests.support.wire import (
    DELTA,
    EVENTS,
    MODEL,
    PATH,
    ROUTES,
    START,
    STOP,
    TOKENS,
    compact,
    event,
    head,
    relayed,
    request,
    text_of,
    whole,
    wire,
)

Handler = Callable[[Arrived, asyncio.StreamWriter], Awaitable[None]]
WHOLE = relayed()
BEFORE_CONTENT = relayed(EVENTS[:2])
PLAN_STREAM = b"".join(map(event, [START, EVENTS[1], DELTA, EVENTS[3], EVENTS[7], {"type": "message_stop"}]))
NEVER_OPENS = 1_000_000
UNKNOWN = b'{"Output":{"__type":"com.amazon.coral.service#UnknownOperationException"},"Version":"1.0"}'


async def plan_serves(_: Arrived, writer: asyncio.StreamWriter) -> None:
    writer.write(sse_answer(PLAN_STREAM))


async def plan_is_busy(_: Arrived, writer: asyncio.StreamWriter) -> None:
    writer.write(whole(529, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'))


def route_of(arrived: Arrived) -> str:
    return "messages" if arrived.target.startswith("/anthropic/") else "invoke"


def playing(*pieces: bytes, close: bool = False) -> Handler:
    """Bedrock answers with the head of the route that was asked, and these bytes."""

    async def answer(arrived: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(head(route_of(arrived), sum(map(len, pieces)) + close))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()

    return answer


async def ask(running: Plane, text: str = "hi", *, stream: bool = True) -> tuple[int, dict[str, str], bytes]:
    return parts(await running.ask(post(PATH, request(text, stream=stream))))


async def each(running: Plane, texts: list[str]) -> dict[str, tuple[int, bytes]]:
    """The answers to many requests, a few at a time."""
    answers: dict[str, tuple[int, bytes]] = {}
    left = iter(texts)

    async def work() -> None:
        for text in left:
            status, _, body = await ask(running, text)
            answers[text] = status, body

    await asyncio.gather(*(work() for _ in range(8)))
    return answers


def error_in(body: bytes) -> dict[str, Any]:
    """The error event at the end of a stream."""
    found = re.fullmatch(rb".*event: error\ndata: (.+?)\n\n", body, re.DOTALL)
    assert found, body[-300:]
    return dict(json.loads(found[1])["error"])


def judge_broken(status: int, body: bytes, *, stopped: bool) -> None:
    """A broken stream: an error with a status before content, else a prefix of the truth and one error event."""
    if status != 200:
        assert status == 502
        assert json.loads(body)["error"]["type"] == "api_error"
        return
    prefix, marked, _ = body.partition(b"event: error\n")
    assert WHOLE.startswith(prefix)
    assert prefix.startswith(BEFORE_CONTENT)
    assert (b"event: message_stop" in prefix) == stopped
    if marked:
        assert error_in(body)["type"] == "api_error"
    else:
        assert prefix == WHOLE


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("announced", [True, False], ids=["length", "until close"])
async def test_a_cut_anywhere_is_a_prefix_and_an_error_and_never_an_end(route: str, announced: bool) -> None:
    """Every seventh byte; the translators alone are cut at every byte elsewhere."""
    data = b"".join(wire(route))

    async def answer(arrived: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(head(route, len(data) if announced else None) + data[: int(text_of(arrived.body))])
        await writer.drain()
        writer.close()

    last = wire(route)[-1]
    offsets = sorted({*range(0, len(data), 7), len(data) - len(last), *range(len(data) - 4, len(data))})
    async with plane(
        plan_serves, bedrock=answer, strategy="bedrock_only", route=route, threshold=NEVER_OPENS
    ) as running:
        answers = await each(running, [str(offset) for offset in offsets])
        records = await running.settled(len(offsets))
    whole_at = len(data) - (2 if route == "messages" else 0)  # the last blank line says nothing that is missing
    for offset in offsets:
        status, body = answers[str(offset)]
        judge_broken(status, body, stopped=offset >= whole_at)
    started = len(wire(route)[0])
    assert sum(status == 200 for status, _ in answers.values()) == sum(
        offset >= started + len(wire(route)[1]) for offset in offsets
    )
    assert {record.ended for record in records} <= {Ended.UPSTREAM_CUT, Ended.FINISHED, Ended.ERROR}
    for record in records:
        assert (record.ended is Ended.ERROR) == (record.status == 502)
        if record.status == 200:
            assert record.tokens.input == 9
            assert record.tokens.cache_read == 400
            assert record.cost.total_nano > 0
            assert record.tokens.output <= TOKENS.output
    assert all(attempt.route == route for record in records for attempt in record.attempts)


async def test_a_flipped_bit_in_a_frame_is_an_error_and_what_came_before_is_intact() -> None:
    frames = wire("invoke")
    data = b"".join(frames)

    async def answer(arrived: Arrived, writer: asyncio.StreamWriter) -> None:
        position = int(text_of(arrived.body))
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        writer.write(head("invoke", len(data)) + damaged)
        await writer.drain()

    async with plane(
        plan_serves, bedrock=answer, strategy="bedrock_only", route="invoke", threshold=NEVER_OPENS
    ) as running:
        positions = list(range(0, len(data), 7))
        answers = await each(running, [str(position) for position in positions])
        records = await running.settled(len(positions))
    held = len(frames[0]) + len(frames[1])
    for position in positions:
        status, body = answers[str(position)]
        assert status == (502 if position < held else 200)
        judge_broken(status, body, stopped=False)
        assert b"damaged frame" in body
    assert {record.ended for record in records} == {Ended.ERROR, Ended.UPSTREAM_CUT}


async def test_bytes_after_damage_are_not_read() -> None:
    """The connection is given up: nothing on it can be trusted."""
    frames = wire("invoke")
    let_go = asyncio.Event()

    async def answer(_: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(head("invoke", 1_000_000) + b"".join(frames[:3]) + b"\0" * 16)
        try:
            await asyncio.Event().wait()
        finally:
            let_go.set()

    async with plane(plan_serves, bedrock=answer, strategy="bedrock_only", route="invoke") as running:
        status, _, body = await ask(running)
        judge_broken(status, body, stopped=False)
        async with asyncio.timeout(1):
            await let_go.wait()


@pytest.mark.parametrize("route", ROUTES)
async def test_events_that_dribble_are_the_same_events(route: str) -> None:
    pieces = [bytes([byte]) for piece in wire(route) for byte in piece]
    async with plane(plan_serves, bedrock=playing(*pieces), strategy="bedrock_only", route=route) as running:
        status, headers, body = await ask(running)
        [record] = await running.settled(1)
    assert (status, body) == (200, WHOLE)
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["x-proxy-provider"] == "bedrock"
    assert headers["x-proxy-upstream-request-id"] == "aws-1"
    assert not [name for name in headers if name.startswith("x-amzn")]
    assert (record.tokens, record.ended, record.estimated) == (TOKENS, Ended.FINISHED, False)


@pytest.mark.parametrize("route", ROUTES)
async def test_a_hundred_events_in_one_read_are_a_hundred_events(route: str) -> None:
    events = [*EVENTS[:2], *[DELTA] * 100, *EVENTS[3:]]
    data = b"".join(wire(route, events))
    async with plane(plan_serves, bedrock=playing(data), strategy="bedrock_only", route=route) as running:
        status, _, body = await ask(running)
        [record] = await running.settled(1)
    assert (status, body) == (200, relayed(events))
    assert record.tokens == TOKENS


async def test_without_usage_in_its_events_bedrocks_own_counts_are_on_the_books() -> None:
    start = START | {"message": {**START["message"], "usage": {}}}
    events = [start, *EVENTS[1:7], {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}}, STOP]
    data = b"".join(wire("invoke", events))
    async with plane(plan_serves, bedrock=playing(data), strategy="bedrock_only", route="invoke") as running:
        _, _, body = await ask(running)
        [record] = await running.settled(1)
    assert b"invocationMetrics" not in body
    assert record.tokens == TOKENS


# -- errors ------------------------------------------------------------------------------------------------------------

EXCEPTIONS: list[tuple[bytes, int, str, str, str]] = [
    (eventstream.exception("throttlingException", "Too many tokens"), 429, "rate_limit_error", "rate_limited", "overloaded_error"),
    (eventstream.exception("serviceUnavailableException", "Busy"), 529, "overloaded_error", "overloaded", "overloaded_error"),
    (eventstream.exception("modelStreamErrorException", "Broke"), 500, "api_error", "server_error", "api_error"),
    (eventstream.exception("internalServerException", "Oops"), 500, "api_error", "server_error", "api_error"),
    (eventstream.exception("modelTimeoutException", "Slow"), 504, "timeout_error", "timeout", "api_error"),
    (eventstream.exception("validationException", "No"), 400, "invalid_request_error", "unsupported", "api_error"),
    (eventstream.error("InternalFailure", "Oops"), 500, "api_error", "server_error", "api_error"),
]  # fmt: skip
NAMES = [kind for _, _, _, kind, _ in EXCEPTIONS]


@pytest.mark.parametrize("sent", [0, 1], ids=["first", "after message_start"])
@pytest.mark.parametrize(("frame", "status", "kind", "failure", "_after"), EXCEPTIONS, ids=NAMES)
async def test_an_exception_before_content_has_its_status_or_the_plan_serves(
    frame: bytes, status: int, kind: str, failure: str, _after: str, sent: int
) -> None:
    answer = playing(*wire("invoke")[:sent], frame)
    async with plane(plan_serves, bedrock=answer, strategy="bedrock_only", route="invoke") as running:
        got, headers, body = await ask(running)
        [record] = await running.settled(1)
    assert (got, json.loads(body)["error"]["type"]) == (status, kind)
    assert ("retry-after" in headers) == (status in (429, 529))
    assert (record.ended, record.status, record.cost.total_nano) == (Ended.ERROR, status, 0)
    assert [attempt.failure for attempt in record.attempts] == [failure]
    async with plane(plan_serves, bedrock=answer, strategy="bedrock_first", route="invoke") as running:
        got, headers, body = await ask(running)
        [record] = await running.settled(1)
    assert (got, body) == (200, PLAN_STREAM)
    assert (headers["x-proxy-provider"], headers["x-proxy-fallback-reason"]) == ("plan", failure)
    assert [(attempt.provider, attempt.failure) for attempt in record.attempts] == [
        ("bedrock", failure),
        ("plan", None),
    ]


@pytest.mark.parametrize(("frame", "_status", "_kind", "_failure", "after"), EXCEPTIONS, ids=NAMES)
async def test_an_exception_after_content_is_an_error_event_and_nobody_else_is_asked(
    frame: bytes, _status: int, _kind: str, _failure: str, after: str
) -> None:
    answer = playing(*wire("invoke")[:3], frame)
    async with plane(plan_serves, bedrock=answer, strategy="bedrock_first", route="invoke") as running:
        got, _, body = await ask(running)
        [record] = await running.settled(1)
        assert running.provider.requests == []
    assert got == 200
    assert body.startswith(relayed(EVENTS[:3]) + b"event: error\n")
    assert b"message_stop" not in body
    assert error_in(body)["type"] == after
    assert (record.ended, record.estimated) == (Ended.UPSTREAM_CUT, True)
    assert (record.tokens.input, record.tokens.cache_read) == (9, 400)
    assert record.tokens.output >= 1
    assert record.cost.total_nano > 0


@pytest.mark.parametrize("sent", [0, 1, 3])
async def test_an_error_event_of_the_messages_route_is_judged_like_an_exception(sent: int) -> None:
    failing = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    answer = playing(*wire("messages")[:sent], failing)
    async with plane(plan_serves, bedrock=answer, strategy="bedrock_first", route="messages") as running:
        _, headers, body = await ask(running)
        [record] = await running.settled(1)
    if sent < 3:
        assert (body, headers["x-proxy-fallback-reason"]) == (PLAN_STREAM, "overloaded")
    else:
        assert body == relayed(EVENTS[:3]) + failing
        assert record.ended is Ended.UPSTREAM_CUT


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_route_that_does_not_exist_is_learned_and_not_asked_again(status: int, stream: bool) -> None:
    message = {"type": "message", "model": SERVED_WHOLE["model"], "content": [], "usage": SERVED_WHOLE["usage"]}
    served = b"".join(wire("invoke"))

    async def answer(arrived: Arrived, writer: asyncio.StreamWriter) -> None:
        if route_of(arrived) == "messages":
            writer.write(whole(status, UNKNOWN))
        elif stream:
            writer.write(head("invoke", len(served)) + served)
        else:
            writer.write(whole(200, compact(message)))

    async with plane(plan_serves, bedrock=answer, strategy="bedrock_first") as running:
        for _ in range(2):
            got, headers, body = await ask(running, stream=stream)
            assert (got, headers["x-proxy-provider"]) == (200, "bedrock")
            assert json.loads(body)["model"] == MODEL if not stream else body == WHOLE
        first, second = await running.settled(2)
        assert running.bedrock is not None
        targets = [arrived.target for arrived in running.bedrock.requests]
    operation = "invoke-with-response-stream" if stream else "invoke"
    assert targets[0] == "/anthropic/v1/messages"
    assert all(target.endswith(f"/{operation}") for target in targets[1:])
    assert len(targets) == 3
    assert [(attempt.route, attempt.failure) for attempt in first.attempts] == [
        ("messages", "unknown_operation"),
        ("invoke", None),
    ]
    assert [(attempt.route, attempt.failure) for attempt in second.attempts] == [("invoke", None)]


SERVED_WHOLE = {
    "type": "message",
    "id": "msg_bdrk_1",
    "model": "claude-opus-5-5-20261001",
    "content": [],
    "usage": {"input_tokens": 9, "output_tokens": 57},
}


@pytest.mark.parametrize("route", ROUTES)
async def test_a_profile_that_does_not_exist_is_learned_and_the_next_one_asked(route: str) -> None:
    asked: list[str] = []

    async def answer(arrived: Arrived, writer: asyncio.StreamWriter) -> None:
        named = json.loads(arrived.body).get("model") or arrived.target.split("/")[2]
        asked.append(named)
        if named == asked[0]:
            text = "The provided model identifier is invalid."
            document: Any = {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
            writer.write(whole(400, compact(document if route == "messages" else {"message": text})))
        else:
            writer.write(whole(200, compact(SERVED_WHOLE)))

    async with plane(plan_serves, bedrock=answer, strategy="bedrock_only", route=route) as running:
        for _ in range(2):
            status, _, body = await ask(running, stream=False)
            assert (status, json.loads(body)["model"]) == (200, MODEL)
        first, second = await running.settled(2)
    assert len(asked) == 3
    assert asked[0] != asked[1] == asked[2]
    assert [attempt.model for attempt in first.attempts] == asked[:2]
    assert [attempt.model for attempt in second.attempts] == asked[2:]


@pytest.mark.parametrize("status", [200, 403, 503])
@pytest.mark.parametrize("strategy", ["bedrock_only", "bedrock_first"])
async def test_a_page_instead_of_an_answer_is_none(status: int, strategy: str) -> None:
    async def answer(_: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(status, b"<html>arn:aws:iam::123456789012:user/x</html>", kind="text/html"))

    async with plane(plan_serves, bedrock=answer, strategy=strategy) as running:
        got, headers, body = await ask(running)
    if strategy == "bedrock_only":
        assert (got, json.loads(body)["error"]["type"]) == (502, "api_error")
        assert b"123456789012" not in body
    else:
        assert (got, body, headers["x-proxy-fallback-reason"]) == (200, PLAN_STREAM, "not_an_api_answer")


@pytest.mark.parametrize("strategy", ["bedrock_only", "bedrock_first"])
async def test_a_request_that_is_too_large_for_bedrock_is_the_plans_or_nobodys(strategy: str) -> None:
    async with plane(plan_serves, bedrock=playing(b"x"), strategy=strategy) as running:
        got, headers, body = await ask(running, "x" * 20_000_001)
        assert running.bedrock is not None
        assert running.bedrock.requests == []
        arrived = [len(sent.body) for sent in running.provider.requests]
    if strategy == "bedrock_only":
        assert (got, json.loads(body)["error"]["type"]) == (413, "request_too_large")
    else:
        assert (got, body, headers["x-proxy-fallback-reason"]) == (200, PLAN_STREAM, "unsupported")
        assert arrived[0] > 20_000_000


# -- silence -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "PING_SECONDS", 0.05)


def pausing(*pieces: bytes, route: str) -> Handler:
    """Bedrock is silent for a while after each piece, and before the first."""

    async def answer(_: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(head(route, sum(map(len, pieces))))
        await writer.drain()
        for piece in pieces:
            await asyncio.sleep(0.13)
            writer.write(piece)
            await writer.drain()

    return answer


@pytest.mark.usefixtures("_quick_pings")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("halves", [False, True], ids=["between events", "inside events"])
async def test_in_silence_the_client_gets_pings_and_never_inside_an_event(route: str, halves: bool) -> None:
    frames = wire(route)
    pieces = [half for frame in frames for half in (frame[: len(frame) // 2], frame[len(frame) // 2 :])]
    answer = pausing(*(pieces if halves else frames), route=route)
    async with plane(plan_serves, bedrock=answer, strategy="bedrock_only", route=route) as running:
        status, headers, body = await ask(running)
        [record] = await running.settled(1)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    blocks = body.split(b"\n\n")
    assert b"\n\n".join(block for block in blocks if block + b"\n\n" != relay.PING) == WHOLE
    assert blocks[0] + b"\n\n" == relay.PING
    assert body.count(relay.PING) >= len(frames)
    assert (record.tokens, record.ended) == (TOKENS, Ended.FINISHED)


@pytest.mark.usefixtures("_quick_pings")
async def test_bytes_that_make_no_event_are_silence_too() -> None:
    """A frame that takes long to arrive: the provider is never silent, the client would hear nothing."""
    frames = wire("invoke")

    async def answer(_: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(head("invoke", sum(map(len, frames))) + b"".join(frames[:2]))
        for byte in frames[2][:40]:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(frames[2][40:] + b"".join(frames[3:]))

    async with plane(plan_serves, bedrock=answer, strategy="bedrock_only", route="invoke") as running:
        _, _, body = await ask(running)
    assert body.count(relay.PING) >= 3
    assert body.replace(relay.PING, b"") == WHOLE


@pytest.mark.usefixtures("_quick_pings")
@pytest.mark.parametrize("sent", [0, 1])
async def test_after_a_ping_another_provider_still_serves(sent: int) -> None:
    frames = [*wire("invoke")[:sent], eventstream.exception("throttlingException", "Too many tokens")]
    answer = pausing(*frames, route="invoke")
    async with plane(plan_serves, bedrock=answer, strategy="bedrock_first", route="invoke") as running:
        status, _, body = await ask(running)
        [record] = await running.settled(1)
    assert status == 200
    assert body.startswith(relay.PING)
    assert body.replace(relay.PING, b"") == PLAN_STREAM
    assert [(attempt.provider, attempt.failure) for attempt in record.attempts] == [
        ("bedrock", "rate_limited"),
        ("plan", None),
    ]
    assert (record.provider, record.ended) == ("plan", Ended.FINISHED)


@pytest.mark.usefixtures("_quick_pings")
@pytest.mark.parametrize("strategy", ["bedrock_only", "bedrock_first"])
async def test_when_all_fail_after_a_ping_the_error_is_an_event(strategy: str) -> None:
    answer = pausing(eventstream.exception("serviceUnavailableException", "Busy"), route="invoke")
    async with plane(plan_is_busy, bedrock=answer, strategy=strategy, route="invoke") as running:
        status, headers, body = await ask(running)
        [record] = await running.settled(1)
    assert status == 200
    rest = body.replace(relay.PING, b"")
    assert error_in(body)["type"] == "overloaded_error"
    assert rest == error_event("overloaded_error", str(error_in(body)["message"]), headers["request-id"])
    assert (record.ended, record.status, record.cost.total_nano) == (Ended.ERROR, 529, 0)


@pytest.mark.usefixtures("_quick_pings")
async def test_after_a_ping_an_answer_that_is_no_stream_is_an_error_event() -> None:
    async def plan(_: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(200, compact(SERVED_WHOLE)))

    answer = pausing(eventstream.exception("serviceUnavailableException", "Busy"), route="invoke")
    async with plane(plan, bedrock=answer, strategy="bedrock_first", route="invoke") as running:
        status, _, body = await ask(running)
    assert (status, error_in(body)["type"]) == (200, "api_error")
