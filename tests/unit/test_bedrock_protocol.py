"""Requests for Bedrock, its streams and its errors: pure functions, no provider."""

import base64
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.mapping import load_catalogue
from daemon.protocol.bedrock.compat import ANY_BETA, Learned, Rule, learn, strip
from daemon.protocol.bedrock.errors import is_unknown_operation, read_error
from daemon.protocol.bedrock.request import Ceilings, Translated, Untranslatable, cap, translate
from daemon.protocol.bedrock.stream import EventStreamTranslator, SseTranslator
from daemon.protocol.bedrock.thinking import heal, healing_for
from daemon.resources import data_file
from daemon.simulator import eventstream

CATALOGUE = load_catalogue(data_file("models.json").read_bytes())
USER = {"role": "user", "content": [{"type": "text", "text": "hi"}]}


def to_bedrock(
    document: dict[str, Any],
    *,
    model: str = "claude-opus-5-5",
    betas: tuple[str, ...] = (),
    rules: set[Rule] | None = None,
    healing: str | None = None,
    ceilings: Ceilings = Ceilings(),  # noqa: B008 - a value
    route: str | None = None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    entry = CATALOGUE.find(model)
    assert entry is not None
    done = translate(
        json.dumps({"model": model, "max_tokens": 100, "messages": [USER], "stream": True} | document).encode(),
        betas=betas,
        route=route or entry.route,  # type: ignore[arg-type]
        bedrock_id=f"us.{entry.base_id}",
        features=entry.features,
        learned=Learned(frozenset(rules or ())),
        healing=healing,
        ceilings=ceilings,
    )
    assert isinstance(done, Translated), done
    return json.loads(done.body), done.betas


def test_on_the_messages_route_the_body_stays_what_it_was_but_for_the_model() -> None:
    fields = {"system": "You are", "stop_sequences": ["x"], "thinking": {"type": "adaptive", "display": "omitted"}}
    body, betas = to_bedrock(fields, betas=("claude-code-20250219", "effort-2025-11-24", "effort-2025-11-24"))
    assert body == {
        "model": "us.anthropic.claude-opus-5-5",
        "max_tokens": 100,
        "messages": [USER],
        "stream": True,
        **fields,
    }
    assert betas == ("claude-code-20250219", "effort-2025-11-24")


def test_on_the_invoke_route_version_and_betas_are_in_the_body_and_the_model_is_not() -> None:
    body, _ = to_bedrock({}, model="claude-sonnet-4-5", betas=("interleaved-thinking-2025-05-14",))
    assert body == {
        "max_tokens": 100,
        "messages": [USER],
        "anthropic_version": "bedrock-2023-05-31",
        "anthropic_beta": ["interleaved-thinking-2025-05-14"],
    }


@pytest.mark.parametrize(
    ("beta", "fields", "gone"),
    [
        ("prompt-caching-scope-2026-01-05", {"system": [{"cache_control": {"scope": "global"}}]}, "scope"),
        ("per-turn-control-2026-07-01", {"messages": [USER | {"output_config": {"effort": "low"}}]}, "output_config"),
        ("mcp-client-2025-04-04", {"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ("fast-mode-2026-02-01", {"speed": "fast"}, "speed"),
        ("code-execution-2025-08-25", {"container": "c"}, "container"),
        ("server-side-fallback-2026-06-01", {"fallbacks": []}, "fallbacks"),
    ],
)
def test_a_beta_and_its_field_leave_together(beta: str, fields: dict[str, Any], gone: str) -> None:
    body, betas = to_bedrock(fields, betas=(beta,))
    assert betas == ()
    assert f'"{gone}"' not in json.dumps(body)


def test_safeguards_go_out_with_their_beta_and_not_without() -> None:
    assert "safeguards" in to_bedrock({"safeguards": {}}, betas=("dangerous-tool-use-2026-09-03",))[0]
    assert "safeguards" not in to_bedrock({"safeguards": {}})[0]


def test_a_renamed_beta_goes_out_under_its_new_name() -> None:
    assert to_bedrock({}, betas=("advanced-tool-use-2025-11-20",))[1] == ("tool-search-tool-2025-10-19",)


def test_a_cache_of_one_hour_stays_where_the_model_knows_it() -> None:
    fields = {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}
    assert '"1h"' in json.dumps(to_bedrock(fields, model="claude-haiku-4-5")[0])
    assert '"1h"' not in json.dumps(to_bedrock(fields, model="claude-opus-4-1")[0])


def test_the_user_id_becomes_its_hash_and_is_the_same_on_every_turn() -> None:
    fields = {"metadata": {"user_id": '{"device_id":"d","session_id":"s"}'}}
    body, _ = to_bedrock(fields)
    assert body == to_bedrock(fields)[0]
    assert len(body["metadata"]["user_id"]) == 64
    assert "metadata" not in to_bedrock({"metadata": {"user_id": 5}})[0]


def test_effort_is_lowered_to_what_the_model_knows_at_bedrock() -> None:
    assert to_bedrock({"output_config": {"effort": "max"}}, model="claude-opus-4-8")[0]["output_config"] == {
        "effort": "xhigh"
    }
    assert to_bedrock({"output_config": {"effort": "low"}})[0]["output_config"] == {"effort": "low"}


def test_thinking_takes_the_form_the_model_knows() -> None:
    enabled = {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 4000}
    adaptive = {"thinking": {"type": "adaptive"}, "max_tokens": 4000}
    assert to_bedrock(enabled)[0]["thinking"] == {"type": "adaptive"}
    assert to_bedrock(enabled, model="claude-sonnet-4-5")[0]["thinking"] == enabled["thinking"]
    assert to_bedrock(adaptive, model="claude-sonnet-4-5")[0]["thinking"]["budget_tokens"] == 3999
    assert to_bedrock(enabled, model="claude-opus-4-6")[0]["thinking"] == enabled["thinking"]


def test_tools_that_run_at_anthropic_are_left_out_and_one_that_is_forced_cannot_be() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    bash = {"name": "Bash", "input_schema": {}, "strict": True, "custom": {"defer_loading": True}}
    body, _ = to_bedrock({"tools": [search, bash]})
    assert body["tools"] == [{"name": "Bash", "input_schema": {}, "defer_loading": True}]
    assert "tools" not in to_bedrock({"tools": [search], "tool_choice": {"type": "auto"}})[0]
    done = translate(
        json.dumps({"tools": [search], "tool_choice": {"type": "tool", "name": "web_search"}}).encode(),
        betas=(),
        route="messages",
        bedrock_id="x",
        features={},
        learned=Learned(),
        healing=None,
        ceilings=Ceilings(),
    )
    assert isinstance(done, Untranslatable)


def test_eager_tool_streaming_is_a_beta_on_the_invoke_route() -> None:
    tools = [{"name": "Bash", "input_schema": {}, "eager_input_streaming": True}]
    body, _ = to_bedrock({"tools": tools}, model="claude-haiku-4-5")
    assert body["anthropic_beta"] == ["fine-grained-tool-streaming-2025-05-14"]
    assert "eager_input_streaming" not in body["tools"][0]
    assert to_bedrock({"tools": tools})[0]["tools"] == tools


def test_max_tokens_gets_a_default_and_stays_below_a_ceiling() -> None:
    document = json.dumps({"model": "m", "messages": []}).encode()
    arguments: dict[str, Any] = {
        "betas": (),
        "route": "messages",
        "bedrock_id": "x",
        "features": {},
        "learned": Learned(),
        "healing": None,
    }
    plain = translate(document, **arguments, ceilings=Ceilings())
    capped = translate(document, **arguments, ceilings=Ceilings(max_output_tokens=900))
    assert isinstance(plain, Translated)
    assert isinstance(capped, Translated)
    assert (json.loads(plain.body)["max_tokens"], json.loads(capped.body)["max_tokens"]) == (4096, 900)


def test_ceilings_leave_a_request_within_them_byte_for_byte() -> None:
    body = b'{ "max_tokens": 100,\n"thinking": {"type":"enabled","budget_tokens": 1500}, "x": 1.10}'
    assert cap(body, Ceilings()) is body
    assert cap(body, Ceilings(200, 2000)) is body
    assert json.loads(cap(body, Ceilings(None, 1024)))["thinking"]["budget_tokens"] == 1024
    lowered = json.loads(cap(b'{"max_tokens":9000,"thinking":{"type":"enabled","budget_tokens":8000}}', Ceilings(2000)))
    assert (lowered["max_tokens"], lowered["thinking"]["budget_tokens"]) == (2000, 1999)


@pytest.mark.parametrize(
    ("message", "rules"),
    [
        ("output_config.format: Extra inputs are not permitted", {Rule("field", "output_config.format")}),
        ("tools.0.custom.eager_input_streaming: Extra inputs are not permitted",
         {Rule("field", "tools.*.custom.eager_input_streaming")}),
        ("tools.3.custom.cache_control.ephemeral.ttl: Extra inputs are not permitted",
         {Rule("field", "cache_control.ttl")}),
        ("messages.0.content.2.text.cache_control.ephemeral.scope: Extra inputs are not permitted",
         {Rule("field", "cache_control.scope")}),
        ("messages.0.role: Extra inputs are not permitted", set()),
        ("Unexpected value(s) `a-2026-01-01`, `b-2` for the `anthropic-beta` header.",
         {Rule("beta", "a-2026-01-01"), Rule("beta", "b-2")}),
        ("invalid beta flag", {Rule("beta", ANY_BETA)}),
        ("tool type 'web_search_20250305' is not supported", {Rule("tool", "web_search_20250305")}),
        ('"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive"',
         {Rule("thinking", "adaptive")}),
        ("adaptive thinking is not supported on this model", {Rule("thinking", "enabled")}),
        ("The provided model identifier is invalid.", {Rule("profile", "us.x")}),
        ("Invocation of model ID x with on-demand throughput isn’t supported", {Rule("profile", "us.x")}),
        ("messages: roles must alternate", set()),
    ],
)  # fmt: skip
def test_an_error_message_teaches_what_it_names_and_no_more(message: str, rules: set[Rule]) -> None:
    assert learn(message, bedrock_id="us.x") == rules


def test_a_learned_field_leaves_with_its_beta_and_a_learned_beta_with_its_field() -> None:
    fields = {"context_management": {"edits": []}}
    beta = "context-management-2025-06-27"
    by_field = to_bedrock(fields, betas=(beta,), rules={Rule("field", "context_management")})
    by_beta = to_bedrock(fields, betas=(beta,), rules={Rule("beta", beta)})
    for body, betas in (by_field, by_beta):
        assert "context_management" not in body
        assert betas == ()


def test_after_an_error_that_names_no_beta_only_known_ones_go_out() -> None:
    betas = ("claude-code-20250219", "brand-new-2027-01-01")
    assert to_bedrock({}, betas=betas)[1] == betas
    assert to_bedrock({}, betas=betas, rules={Rule("beta", ANY_BETA)})[1] == ("claude-code-20250219",)


def test_stripping_passes_over_the_names_of_union_members() -> None:
    document = {"tools": [{"name": "a", "eager": 1}, {"name": "b"}], "messages": [{"content": [{"x": {"y": 1}}]}]}
    strip(document, ["tools.*.custom.eager", "messages.*.content.*.text.x.y"])
    assert document == {"tools": [{"name": "a"}, {"name": "b"}], "messages": [{"content": [{}]}]}


THINKING_TURNS = {
    "thinking": {"type": "adaptive"},
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "", "signature": "s"},
                                          {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]},
    ],
}  # fmt: skip


def test_thinking_blocks_pass_unchanged_until_they_are_refused() -> None:
    assert to_bedrock(THINKING_TURNS)[0]["messages"] == THINKING_TURNS["messages"]


def test_the_recovery_that_the_message_names_is_applied_and_then_the_harder_one() -> None:
    bound = (
        "messages.5.content.0: Invalid `signature` in `thinking` block. The block is bound to a different conversation."
        ' Remove the block, or set `thinking.block_binding.prefix_mismatch_behavior` to "drop_block".'
    )
    assert healing_for(bound, None) == "drop_block"
    assert healing_for(bound, "drop_block") == "strip_thinking"
    assert healing_for(bound, "strip_thinking") is None
    assert healing_for("messages.1.content.0: Invalid `signature` in `thinking` block", None) == "strip_thinking"
    assert healing_for("messages: roles must alternate", None) is None


def test_healing_is_the_same_on_every_turn() -> None:
    body, betas = to_bedrock(THINKING_TURNS, healing="drop_block")
    assert body["thinking"]["block_binding"] == {"prefix_mismatch_behavior": "drop_block"}
    assert betas == ("thinking-binding-controls-2026-08-01",)
    stripped = to_bedrock(THINKING_TURNS, healing="strip_thinking")[0]["messages"]
    assert stripped[1]["content"] == [{"type": "text", "text": "b"}]
    assert [block["type"] for block in stripped[2]["content"]] == ["text"]
    assert heal(json.loads(json.dumps({"messages": []})), ("x",), None) == ["x"]


# -- streams -----------------------------------------------------------------------------------------------------------

EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "msg_bdrk_1", "model": "claude-sonnet-4-5-20250929", "role": "assistant",
                                          "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "grüße 你好"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "Bash", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"command\": \"ls\"}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}},
    {"type": "message_stop", "amazon-bedrock-invocationMetrics": {
        "inputTokenCount": 9, "outputTokenCount": 7, "invocationLatency": 10, "firstByteLatency": 2}},
]  # fmt: skip
FRAMES = b"".join(eventstream.chunk(orjson.dumps(event), "abcdef") for event in EVENTS)
SSE = b"".join(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in EVENTS)


def expected() -> bytes:
    out = b""
    for event in EVENTS:
        event = json.loads(json.dumps(event))
        event.pop("amazon-bedrock-invocationMetrics", None)
        if event["type"] == "message_start":
            event["message"]["model"] = "claude-sonnet-4-5"
        out += b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))
    return out


WHOLE = expected()


@pytest.mark.parametrize(("translator", "wire"), [(EventStreamTranslator, FRAMES), (SseTranslator, SSE)])
@pytest.mark.parametrize("size", [1, 7, 100, 100_000])
def test_both_wires_give_the_same_events_however_they_arrive(translator: Any, wire: bytes, size: int) -> None:
    made = translator("claude-sonnet-4-5")
    out = b"".join(made.feed(wire[start : start + size]) for start in range(0, len(wire), size)) + made.finish()
    assert out == WHOLE
    assert made.broken is None
    assert made.served_model == "claude-sonnet-4-5-20250929"
    assert (made.metrics.input, made.metrics.output) == (9, 7)


@pytest.mark.parametrize(("translator", "wire"), [(EventStreamTranslator, FRAMES), (SseTranslator, SSE)])
def test_a_stream_cut_at_any_byte_is_a_prefix_and_has_no_end_of_our_making(translator: Any, wire: bytes) -> None:
    for cut in range(len(wire)):
        made = translator("claude-sonnet-4-5")
        out = made.feed(wire[:cut]) + made.finish()
        assert WHOLE.startswith(out)
        if cut < len(wire) - 2:
            assert b"message_stop" not in out


def test_a_flipped_bit_anywhere_is_seen_and_what_came_before_is_intact() -> None:
    for position in range(len(FRAMES)):
        damaged = bytearray(FRAMES)
        damaged[position] ^= 1 << (position % 8)
        made = EventStreamTranslator("claude-sonnet-4-5")
        out = made.feed(bytes(damaged)) + made.finish()
        assert WHOLE.startswith(out)
        assert made.broken is not None, position


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_bytes_that_are_no_event_stream_never_become_events(data: bytes) -> None:
    made = EventStreamTranslator("m")
    assert made.feed(data) + made.finish() == b""


@pytest.mark.parametrize(
    ("frame", "kind", "status"),
    [
        (eventstream.exception("throttlingException", "Too many tokens"), "rate_limit_error", 429),
        (eventstream.exception("serviceUnavailableException", "busy"), "overloaded_error", 529),
        (eventstream.exception("modelStreamErrorException", "oops"), "api_error", 500),
        (eventstream.exception("modelTimeoutException", "slow"), "timeout_error", 504),
        (eventstream.exception("internalServerException", "oops"), "api_error", 500),
        (eventstream.exception("validationException", "Input is too long."), "invalid_request_error", 400),
        (eventstream.error("InternalServerError", "oops"), "api_error", 500),
    ],
)
def test_an_exception_in_the_stream_ends_it_and_is_named(frame: bytes, kind: str, status: int) -> None:
    made = EventStreamTranslator("m")
    out = made.feed(eventstream.chunk(orjson.dumps(EVENTS[1])) + frame + eventstream.chunk(orjson.dumps(EVENTS[2])))
    assert out.count(b"event: ") == 1
    assert made.error is not None
    assert (made.error.type, made.error.status) == (kind, status)


def test_a_frame_of_an_unknown_kind_is_passed_over() -> None:
    frame = eventstream.frame({":message-type": "event", ":event-type": "brand-new"}, b"{}")
    made = EventStreamTranslator("m")
    assert made.feed(frame) == b""
    assert (made.broken, made.error) == (None, None)


def test_a_chunk_without_its_bytes_is_damage() -> None:
    for payload in (b"{}", b'{"bytes": "***"}', b"nothing"):
        made = EventStreamTranslator("m")
        assert made.feed(eventstream.frame({":message-type": "event", ":event-type": "chunk"}, payload)) == b""
        assert made.broken


def test_line_feeds_inside_an_event_do_not_split_it() -> None:
    pretty = json.dumps(EVENTS[1], indent=1).encode()
    frame = eventstream.frame(
        {":message-type": "event", ":event-type": "chunk"},
        json.dumps({"bytes": base64.b64encode(pretty).decode()}).encode(),
    )
    assert EventStreamTranslator("m").feed(frame).count(b"\n") == 3


# -- errors ------------------------------------------------------------------------------------------------------------


def error(status: int, name: str, message: str) -> Any:
    headers = {b"x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/".encode()} if name else {}
    return read_error(status, headers, json.dumps({"message": message}).encode())


@pytest.mark.parametrize(
    ("status", "name", "message", "out", "kind", "text"),
    [
        (400, "ValidationException", "Input is too long for requested model.", 400, "invalid_request_error",
         "capability_rejected: prompt_too_long"),
        (400, "ValidationException", "Input is too long.", 400, "invalid_request_error", "Input is too long."),
        (400, "ValidationException", "messages.3.role: Input should be 'user'", 400, "invalid_request_error",
         "capability_rejected: mid_conv_system"),
        (400, "ValidationException", "Unexpected value(s) `x-1` for the `anthropic-beta` header", 400,
         "invalid_request_error", "capability_rejected: beta_header:x-1"),
        (400, "ServiceQuotaExceededException", "quota", 429, "rate_limit_error", "quota"),
        (403, "AccessDeniedException", "arn:aws:iam::123456789012:user/x", 502, "api_error",
         "Bedrock refused the gateway's own credential; an operator has to replace it"),
        (404, "ResourceNotFoundException", "Could not find arn:aws:bedrock:us-east-1::model/x of 123456789012", 404,
         "not_found_error", "Could not find … of …"),
        (408, "ModelTimeoutException", "slow", 504, "timeout_error", "slow"),
        (424, "ModelErrorException", "bad", 500, "api_error", "bad"),
        (429, "ThrottlingException", "Too many tokens per day", 429, "rate_limit_error", "Too many tokens per day"),
        (429, "ModelNotReadyException", "warming", 529, "overloaded_error", "warming"),
        (503, "ServiceUnavailableException", "busy", 529, "overloaded_error", "busy"),
        (500, "", "", 500, "api_error", "Bedrock answered HTTP 500"),
        (400, "ValidationException", "The provided model identifier is invalid.", 404, "not_found_error",
         "The provided model identifier is invalid."),
    ],
)  # fmt: skip
def test_an_error_reaches_the_client_in_words_it_knows(
    status: int, name: str, message: str, out: int, kind: str, text: str
) -> None:
    found = error(status, name, message)
    assert (found.status, found.type, found.message) == (out, kind, text)


def test_an_error_in_anthropics_shape_keeps_its_words() -> None:
    body = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long"}})
    found = read_error(400, {}, body.encode())
    assert (found.status, found.type, found.message) == (400, "invalid_request_error", "prompt is too long")


def test_an_unknown_operation_is_one_whatever_its_status() -> None:
    body = b'{"Output":{"__type":"com.amazon.coral.service#UnknownOperationException"},"Version":"1.0"}'
    assert is_unknown_operation(body)
    assert read_error(200, {}, body).name == "UnknownOperationException"


def test_a_days_quota_is_worth_a_longer_wait_than_a_minutes() -> None:
    assert error(429, "ThrottlingException", "Too many tokens per day").retry_after > 600
    assert error(429, "ThrottlingException", "Too many requests").retry_after <= 60
