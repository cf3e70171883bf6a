"""What a client gets of a provider's answer: the same bytes, a visible cut, and a record in every case."""

import asyncio
import hashlib
import json

import pytest

from daemon.core.pricing import price
from daemon.core.record import Ended
from daemon.core.tokens import TokenCounts
from tests.support.plane import KEY, PLAN_API_KEY, SHEET, Arrived, parts, plane, post, sse_answer, unchunk

EVENTS = [
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"model":"claude-opus-5-5","content":[],"usage":{"input_tokens":12,"cache_creation_input_tokens":30,'
    b'"cache_read_input_tokens":400,"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},'
    b'"output_tokens":1}}}\n\n',
    b'event: ping\ndata: {"type":"ping"}\n\n',
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n',
    'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"héllo 😀"}}\n\n'.encode(),
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
    b'event: content_block_start\ndata: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"Bash","input":{}}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\\"command\\":"}}\n\n',
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":1}\n\n',
    b'event: invented_tomorrow\ndata: {"type":"invented_tomorrow","x":[1,2]}\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":57,'
    b'"output_tokens_details":{"thinking_tokens":9}}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
]
STREAM = b"".join(EVENTS)
TOKENS = TokenCounts(input=12, output=57, cache_write_5m=10, cache_write_1h=20, cache_read=400, thinking=9)
BODY = json.dumps(
    {"model": "claude-opus-5-5", "max_tokens": 9, "stream": True, "invented": {"é": [1.0, None]}}
).encode()
PATH = f"/ak/{KEY}/v1/messages?beta=true"


def answering(answer: bytes, *, close: bool = False, step: int = 0):
    async def answer_with(_: Arrived, writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(answer), step or len(answer)):
            writer.write(answer[start : start + (step or len(answer))])
            await writer.drain()
            if step:
                await asyncio.sleep(0)
        if close:
            writer.close()

    return answer_with


@pytest.mark.parametrize("step", [0, 1, 7, 1000])
async def test_bytes_pass_untouched_both_ways_and_every_token_is_recorded(step: int) -> None:
    async with plane(answering(sse_answer(STREAM), step=step)) as running:
        status, headers, body = parts(await running.ask(post(PATH, BODY, {"anthropic-new-header": "tomorrow, today"})))
        assert (status, hashlib.sha256(body).digest()) == (200, hashlib.sha256(STREAM).digest())
        assert headers["x-new-header"] == "kept"
        assert headers["x-proxy-upstream-request-id"] == "req_upstream"
        [arrived] = running.provider.requests
        assert hashlib.sha256(arrived.body).digest() == hashlib.sha256(BODY).digest()
        assert arrived.target == "/v1/messages?beta=true"
        assert arrived.headers["anthropic-new-header"] == "tomorrow, today"
        assert arrived.headers["x-api-key"] == PLAN_API_KEY
        assert KEY not in arrived.head.decode()
        [record] = await running.settled(1)
        assert record.tokens == TOKENS
        assert (record.ended, record.estimated, record.suspect) == (Ended.FINISHED, False, False)
        assert record.request_id == headers["request-id"]
        assert record.model_served == "claude-opus-5-5"
        assert record.cost == price(TOKENS, sheet=SHEET, provider="plan", model="claude-opus-5-5").cost
        assert record.upstream_request_id == "req_upstream"


async def test_crlf_and_lines_split_anywhere_are_metered_and_pass_as_they_are() -> None:
    stream = STREAM.replace(b"\n", b"\r\n")
    async with plane(answering(sse_answer(stream), step=3)) as running:
        _, _, body = parts(await running.ask(post(PATH, BODY)))
        assert body == stream
        [record] = await running.settled(1)
        assert record.tokens == TOKENS


async def test_a_cut_at_any_byte_is_a_prefix_and_one_error_event() -> None:
    cut_at = 0

    async def answer(_: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(sse_answer(STREAM[:cut_at], cut=True))
        await writer.drain()
        writer.close()

    offsets = list(range(0, len(STREAM), 5))
    stop = STREAM.index(b"event: message_stop")
    async with plane(answer) as running:
        for cut_at in offsets:
            status, _, body = parts(await running.ask(post(PATH, BODY)))
            assert status == 200
            assert body.startswith(STREAM[:cut_at])
            rest = body[cut_at:]
            assert rest.count(b"event: error\n") == 1
            assert rest.lstrip(b"\n").startswith(b'event: error\ndata: {"type":"error","error":{"type":"api_error"')
            assert b"message_stop\n" not in body or cut_at > stop
        records = await running.settled(len(offsets))
        assert {record.ended for record in records} <= {Ended.UPSTREAM_CUT, Ended.FINISHED}
        assert all(record.cost.total_nano > 0 for record in records)
        assert all(record.tokens.input == 12 for record in records[-60:])


async def test_an_end_without_the_last_blank_line_is_still_an_end() -> None:
    async with plane(answering(sse_answer(STREAM[:-1]))) as running:
        _, _, body = parts(await running.ask(post(PATH, BODY)))
        assert body == STREAM[:-1]
        [record] = await running.settled(1)
        assert (record.ended, record.estimated, record.tokens) == (Ended.FINISHED, False, TOKENS)


@pytest.mark.parametrize("after", range(len(EVENTS)))
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_a_client_that_leaves_is_recorded_and_the_provider_is_let_go(after: int, reset: bool) -> None:
    seen = asyncio.Event()

    async def answer(_: Arrived, writer: asyncio.StreamWriter) -> None:
        if after == 0:
            seen.set()
            await asyncio.Event().wait()
        writer.write(sse_answer(STREAM)[: -len(STREAM)] + b"".join(EVENTS[:after]))
        await writer.drain()
        await asyncio.Event().wait()

    async with plane(answer) as running:
        before = len(asyncio.all_tasks())
        reader, writer = await running.raw(post(PATH, BODY))
        if after:
            await reader.readuntil(EVENTS[after - 1][-20:])
        else:
            await seen.wait()
        if reset:
            writer.transport.abort()
        else:
            writer.close()
        [record] = await running.settled(1)
        assert record.ended is Ended.CLIENT_LEFT
        assert record.estimated == (EVENTS[9] not in EVENTS[:after])  # message_delta carries the last usage
        assert record.tokens.prompt >= (442 if after else len(BODY) // 4)
        assert record.cost.total_nano > 0
        async with asyncio.timeout(5):
            while not running.provider.closed:
                await asyncio.sleep(0.005)
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0.005)


async def test_a_slow_client_slows_the_provider_and_memory_stays_bounded() -> None:
    sent = 0
    total = 1000

    async def answer(_: Arrived, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        filler = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"'
            + b"x" * 65_000
            + b'"}}\n\n'
        )
        stream = EVENTS[0] + filler * total + b"".join(EVENTS[-2:])
        writer.write(sse_answer(stream)[: -len(stream)] + EVENTS[0])
        for _ in range(total):
            writer.write(filler)
            await writer.drain()
            sent += 1
        writer.write(b"".join(EVENTS[-2:]))
        await writer.drain()

    async with plane(answer) as running:
        reader, writer = await running.raw(post(PATH, BODY))
        await asyncio.sleep(0.3)
        assert sent < total // 2
        answer_bytes = await reader.read()
        writer.close()
        assert len(unchunk(answer_bytes.partition(b"\r\n\r\n")[2])) > total * 65_000
        [record] = await running.settled(1)
        assert record.ended is Ended.FINISHED
        assert record.tokens.output == 57


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "model": "claude-haiku-5-5",
    "content": [{"type": "text", "text": "hi"}],
    "usage": {"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": 7},
}


def whole(status: int, body: bytes, kind: str = "application/json", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


async def test_a_whole_answer_passes_untouched_and_is_recorded() -> None:
    document = json.dumps(MESSAGE, indent=3).encode()
    async with plane(answering(whole(200, document))) as running:
        status, headers, body = parts(await running.ask(post(PATH, BODY.replace(b"true", b"false"))))
        assert (status, body, headers["content-length"]) == (200, document, str(len(document)))
        [record] = await running.settled(1)
        assert record.tokens == TokenCounts(input=5, output=3, cache_read=7)
        assert (record.stream, record.estimated, record.model_served) == (False, False, "claude-haiku-5-5")


@pytest.mark.parametrize("status", [400, 404, 413, 429, 500, 529])
async def test_a_providers_error_passes_unmodified(status: int) -> None:
    document = (
        b'{"type":"error","error":{"type":"x_error","message":"prompt is too long: 5 > 4"},"request_id":"req_up"}'
    )
    extra = "retry-after: 7\r\nx-should-retry: false\r\n"
    async with plane(answering(whole(status, document, extra=extra))) as running:
        got, headers, body = parts(await running.ask(post(PATH, BODY)))
        assert (got, body) == (status, document)
        assert (headers["retry-after"], headers["x-should-retry"]) == ("7", "false")
        [record] = await running.settled(1)
        assert (record.status, record.ended, record.error_type) == (status, Ended.ERROR, "x_error")
        assert (record.cost.total_nano, record.estimated) == (0, False)


@pytest.mark.parametrize(
    ("answer", "status", "kind"),
    [
        (whole(502, b"<html>bad gateway</html>", "text/html"), 502, "api_error"),
        (whole(503, b""), 503, "api_error"),
        (whole(200, b"<html>login</html>", "text/html"), 502, "api_error"),
        (whole(302, b"", extra="location: http://169.254.169.254/\r\n"), 502, "api_error"),
        (whole(401, b'{"type":"error","error":{"type":"authentication_error","message":"bad"}}'), 502, "api_error"),
        (whole(403, b'{"type":"error","error":{"type":"permission_error","message":"bad"}}'), 502, "api_error"),
        (b"no http here\r\n\r\n", 502, "api_error"),
    ],
    ids=["html 502", "empty 503", "html 200", "redirect", "our key 401", "our key 403", "junk"],
)
async def test_what_is_not_an_answer_becomes_an_error_of_ours(answer: bytes, status: int, kind: str) -> None:
    async with plane(answering(answer)) as running:
        got, headers, body = parts(await running.ask(post(PATH, BODY)))
        document = json.loads(body)
        assert (got, document["error"]["type"]) == (status, kind)
        assert document["request_id"] == headers["request-id"]
        assert PLAN_API_KEY not in body.decode()
        [record] = await running.settled(1)
        assert record.ended is Ended.ERROR


async def test_the_clients_own_login_is_used_and_its_refusal_is_shown() -> None:
    refusal = b'{"type":"error","error":{"type":"authentication_error","message":"OAuth token has expired"}}'
    async with plane(answering(whole(401, refusal))) as running:
        headers = {"x-proxy-key": KEY, "authorization": "Bearer sk-ant-oat01-own", "anthropic-beta": "oauth-2025-04-20"}
        status, _, body = parts(await running.ask(post("/v1/messages", BODY, headers)))
        assert (status, body) == (401, refusal)
        [arrived] = running.provider.requests
        assert arrived.headers["authorization"] == "Bearer sk-ant-oat01-own"
        assert arrived.headers["anthropic-beta"] == "oauth-2025-04-20"
        assert "x-api-key" not in arrived.headers
        assert "x-proxy-key" not in arrived.headers


async def test_a_provider_that_never_answers_is_a_timeout_with_a_reason() -> None:
    async def answer(_: Arrived, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with plane(answer, first_byte=0.05) as running:
        status, _, body = parts(await running.ask(post(PATH, BODY)))
        assert (status, json.loads(body)["error"]["type"]) == (504, "timeout_error")
        [record] = await running.settled(1)
        assert record.attempts[0].failure == "timeout"


async def test_a_stream_that_falls_silent_ends_with_an_error_event() -> None:
    async def answer(_: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(sse_answer(STREAM)[: -len(STREAM)] + EVENTS[0])
        await asyncio.Event().wait()

    async with plane(answer, idle=0.05) as running:
        _, _, body = parts(await running.ask(post(PATH, BODY)))
        assert body.startswith(EVENTS[0] + b"event: error\n")
        [record] = await running.settled(1)
        assert (record.ended, record.tokens.input) == (Ended.UPSTREAM_CUT, 12)


async def test_an_error_event_of_the_provider_passes_and_nothing_is_added() -> None:
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    async with plane(answering(sse_answer(EVENTS[0] + error))) as running:
        _, _, body = parts(await running.ask(post(PATH, BODY)))
        assert body == EVENTS[0] + error
        [record] = await running.settled(1)
        assert (record.ended, record.error_type) == (Ended.ERROR, "overloaded_error")
