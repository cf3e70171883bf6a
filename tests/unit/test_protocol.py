"""The pure protocol: events and usage, however the bytes are cut."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.tokens import TokenCounts
from daemon.protocol.anthropic.meter import UsageMeter
from daemon.protocol.anthropic.request import BadRequest, MessageFacts, inspect
from daemon.protocol.sse import SseScanner, parse_event
from tests.gateway.test_relay import EVENTS, STREAM, TOKENS

LINE_ENDS = [b"\n", b"\r\n", b"\r"]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(st.integers(0, 10_000), max_size=30), st.sampled_from(LINE_ENDS))
def test_events_and_usage_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int], line_end: bytes) -> None:
    stream = STREAM.replace(b"\n", line_end)
    scanner, meter = SseScanner(), UsageMeter(stream=True)
    blocks = []
    for piece in pieces(stream, cuts):
        blocks += scanner.feed(piece)
        meter.feed(piece)
    assert blocks == [event.removesuffix(b"\n\n") for event in EVENTS]
    assert scanner.at_boundary
    assert meter.tokens == TOKENS
    assert (meter.stopped, meter.exact, meter.suspect, meter.model) == (True, True, False, "claude-opus-5-5")


def test_comments_unknown_lines_and_data_over_several_lines() -> None:
    block = b': comment\nid: 7\nevent: x\ndata: {"a":\ndata:1}\nretry'
    assert parse_event(block) == ("x", b'{"a":\n1}')
    assert parse_event(b"data: only") == ("message", b"only")
    assert SseScanner().feed(b"\n\n\n: c\n\ndata: 1\n\n\n\n") == [b": c", b"data: 1"]


def test_an_event_beyond_the_limit_is_skipped_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.protocol.sse.EVENT_LIMIT", 1000)
    scanner = SseScanner()
    seen = []
    for _ in range(50):
        seen += scanner.feed(b"x" * 100)
    assert not scanner.at_boundary
    seen += scanner.feed(b"\n\ndata: next\n\n")
    assert (seen, scanner.oversized, scanner.at_boundary) == ([b"data: next"], True, True)


def delta(usage: object) -> bytes:
    return f"event: message_delta\ndata: {json.dumps({'type': 'message_delta', 'usage': usage})}\n\n".encode()


def test_cumulative_usage_counts_once_by_the_maximum_of_each_field() -> None:
    meter = UsageMeter(stream=True)
    meter.feed(EVENTS[0] + delta({"output_tokens": 5}) + delta({"output_tokens": 9, "input_tokens": 12}))
    meter.feed(delta({"output_tokens": 9}) + EVENTS[-1])
    assert meter.tokens == TokenCounts(input=12, output=9, cache_write_5m=10, cache_write_1h=20, cache_read=400)


@pytest.mark.parametrize("value", [-1, 1e30, "7", True, [], {}, 10**12])
def test_a_count_that_cannot_be_is_left_out_and_flagged(value: object) -> None:
    meter = UsageMeter(stream=True)
    meter.feed(EVENTS[0] + delta({"output_tokens": value}) + EVENTS[-1])
    assert meter.tokens.output == 1
    assert (meter.suspect, meter.exact) == (True, False)


@pytest.mark.parametrize("usage", [None, 7, [], {"output_tokens": None}])
def test_usage_that_is_missing_breaks_nothing(usage: object) -> None:
    meter = UsageMeter(stream=True)
    meter.feed(EVENTS[0] + delta(usage) + EVENTS[-1])
    assert (meter.stopped, meter.tokens.input) == (True, 12)


def test_without_a_breakdown_cache_writes_are_of_five_minutes() -> None:
    meter = UsageMeter(stream=False)
    meter.feed(
        json.dumps(
            {"type": "message", "usage": {"input_tokens": 1, "output_tokens": 2, "cache_creation_input_tokens": 3}}
        ).encode()
    )
    meter.finish()
    assert meter.tokens == TokenCounts(input=1, output=2, cache_write_5m=3)
    assert meter.exact


def test_text_on_its_way_is_measured_for_answers_that_are_cut() -> None:
    meter = UsageMeter(stream=True)
    event = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}\n\n'
    for _ in range(10):
        meter.feed(event % (b"x" * 40))
    assert meter.text_bytes == pytest.approx(400, rel=0.1)
    assert meter.content_started


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_make_the_meter_fail(data: bytes, stream: bool) -> None:
    meter = UsageMeter(stream=stream)
    meter.feed(data)
    meter.finish()
    assert meter.tokens.prompt >= 0


@given(st.binary(max_size=200))
def test_no_bytes_make_the_inspection_fail(data: bytes) -> None:
    assert isinstance(inspect(data), MessageFacts | BadRequest)


def test_the_session_is_in_the_metadata() -> None:
    body = {"model": "m", "stream": True, "metadata": {"user_id": json.dumps({"session_id": "s-1", "device_id": "d"})}}
    assert inspect(json.dumps(body).encode()) == MessageFacts("m", True, None, "s-1")
    text = {"model": "m", "max_tokens": 5, "messages": [{"content": 'he said "model" and \\"stream\\"'}]}
    assert inspect(json.dumps(text).encode()) == MessageFacts("m", False, 5, None)
