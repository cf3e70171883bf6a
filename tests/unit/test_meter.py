"""The usage meter where an answer is incomplete or odd, and prices that cannot be exact."""

import json
from typing import Any

import pytest

from daemon.core.pricing import PriceSheetError, load_sheet
from daemon.protocol.anthropic.errors import error_body, error_event
from daemon.protocol.anthropic.meter import UsageMeter
from daemon.resources import data_file


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode()


def start(usage: object) -> bytes:
    return event("message_start", message={"model": "claude-opus-5-5", "usage": usage})


def metered(*chunks: bytes, stream: bool = True) -> UsageMeter:
    meter = UsageMeter(stream=stream)
    for chunk in chunks:
        meter.feed(chunk)
    meter.finish()
    return meter


@pytest.mark.parametrize(
    ("at_start", "at_end"),
    [
        ({"input_tokens": 5, "output_tokens": 1}, {"output_tokens": None}),
        ({"input_tokens": 5, "output_tokens": 1}, {}),
        ({"input_tokens": 5, "output_tokens": 1}, None),
        ({"input_tokens": None}, {"output_tokens": 3}),
        ({}, {"output_tokens": 3}),
        (None, {"output_tokens": 3}),
    ],
)
def test_usage_with_a_hole_in_it_is_not_exact(at_start: object, at_end: object) -> None:
    meter = metered(start(at_start), event("message_delta", usage=at_end), event("message_stop"))
    assert (meter.stopped, meter.exact) == (True, False)


@pytest.mark.parametrize(
    "usage", [None, {}, {"input_tokens": 5}, {"output_tokens": 5}, {"input_tokens": 5, "output_tokens": None}]
)
def test_a_document_with_a_hole_in_its_usage_is_not_exact(usage: object) -> None:
    meter = metered(json.dumps({"type": "message", "model": "m", "usage": usage}).encode(), stream=False)
    assert (meter.stopped, meter.exact, meter.model) == (True, False, "m")


def test_a_cut_before_the_last_usage_is_not_exact_and_after_it_is() -> None:
    begun = start({"input_tokens": 5, "output_tokens": 1})
    assert not metered(begun).exact
    ended = metered(begun, event("message_delta", usage={"output_tokens": 9}))
    assert (ended.exact, ended.stopped, ended.tokens.output) == (True, False, 9)


def test_the_last_event_counts_without_its_blank_line() -> None:
    begun = start({"input_tokens": 5}) + event("message_delta", usage={"output_tokens": 9})
    for missing in (1, 2):
        meter = metered(begun + event("message_stop")[:-missing])
        assert (meter.stopped, meter.exact) == (True, True)
    assert not metered(begun + event("message_stop")[:-3]).stopped


def test_an_unreadable_usage_event_is_flagged_and_others_are_not() -> None:
    assert metered(start({"input_tokens": 5}), b"event: message_delta\ndata: {oops\n\n").suspect
    assert not metered(start({"input_tokens": 5}), b"event: future\ndata: {oops\n\n").suspect


def test_events_without_a_name_line_count_by_the_type_in_their_data() -> None:
    named = start({"input_tokens": 5}) + event("message_delta", usage={"output_tokens": 9}) + event("message_stop")
    bare = b"".join(line + b"\n\n" for line in named.split(b"\n") if line.startswith(b"data:"))
    assert metered(bare).tokens == metered(named).tokens
    assert metered(bare).exact


def test_text_that_looks_like_an_event_is_only_text() -> None:
    text = '\n\nevent: error\ndata: {"type":"error"}\n\n"type":"message_stop"'
    delta = event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
    meter = metered(start({"input_tokens": 5}), delta)
    assert (meter.error_type, meter.stopped, meter.content_started) == (None, False, True)


@pytest.mark.parametrize(
    ("error", "kind"), [({"type": "overloaded_error"}, "overloaded_error"), ({}, "api_error"), (None, "api_error")]
)
def test_an_error_is_named_whichever_way_it_comes(error: object, kind: str) -> None:
    assert metered(event("error", error=error)).error_type == kind
    document = metered(json.dumps({"type": "error", "error": error}).encode(), stream=False)
    assert (document.error_type, document.stopped, document.exact) == (kind, False, False)


def test_our_own_errors_are_read_back_as_what_they_say() -> None:
    message = 'two\nlines, "quotes" and \u2028'
    body = json.loads(error_body("api_error", message, "req_1"))
    assert body == {"type": "error", "error": {"type": "api_error", "message": message}, "request_id": "req_1"}
    assert error_event("api_error", message, "req_1").count(b"\n") == 3
    assert metered(error_event("api_error", message, "req_1")).error_type == "api_error"


@pytest.mark.parametrize("field", ["input", "cache_read"])
@pytest.mark.parametrize("value", ["0.0000000001", "0.000000001"])
def test_a_price_too_fine_to_be_exact_is_refused_when_the_sheet_is_read(field: str, value: str) -> None:
    document = json.loads(data_file("models.json").read_bytes())
    entry = next(model for model in document["models"] if model["id"] == "claude-opus-5-5")["prices"]["plan"]["global"]
    assert entry["inference_geo"] == {"us": "1.1"}  # nine decimals times this are ten
    entry[field] = value
    with pytest.raises(PriceSheetError, match=f"claude-opus-5-5, plan, global: {field} .* nine decimals"):
        load_sheet(json.dumps(document).encode())
