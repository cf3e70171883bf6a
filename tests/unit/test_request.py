"""Request bodies: what is refused, with which words, and what is left to the provider."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.protocol.anthropic.request import BadRequest, MessageFacts, inspect

NOT_ONE_OBJECT = [
    b"",
    b" ",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"1",
    b'{"model":"m",}',
    b'{"model":"m"}{}',
    b'\xef\xbb\xbf{"model":"m"}',
    b'{"model":"m"/* no */}',
    b'{"model":"m","a":NaN}',
    b'{"model":"m","a":Infinity}',
    b'{"model":"m","a":-Infinity}',
    b'{"model":"m","a":1e999}',
    b'{"model":"m","a":' + b"9" * 10_000 + b"}",
    b'{"model":"m","a":"\xff"}',
    b'{"model":"m","a":"\\ud800"}',
    b'{"model":"m","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
]


@pytest.mark.parametrize("body", NOT_ONE_OBJECT, ids=lambda body: repr(body[:24]))
def test_what_is_not_one_json_object_is_refused_in_few_words(body: bytes) -> None:
    refused = inspect(body)
    assert isinstance(refused, BadRequest)
    assert refused.message.startswith("body must be one JSON object: ")
    assert len(refused.message) <= 130


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"null", "model: expected a model id, got null"),
        (b"1", "model: expected a model id, got a number"),
        (b"true", "model: expected a model id, got a boolean"),
        (b"{}", "model: expected a model id, got an object"),
        (b"[]", "model: expected a model id, got an array"),
        (b'""', "model: expected a model id, got an empty string"),
        (b'"' + b"x" * 257 + b'"', "model: expected at most 256 printable characters"),
        (b'"a\\nb"', "model: expected at most 256 printable characters"),
        (b'"a\\u0000b"', "model: expected at most 256 printable characters"),
    ],
)
def test_a_model_that_cannot_be_one_is_refused_by_name(model: bytes, message: str) -> None:
    assert inspect(b'{"model":' + model + b"}") == BadRequest(message)
    assert inspect(b'{"max_tokens":1}') == BadRequest("model: expected a model id, got nothing")


@pytest.mark.parametrize("model", ["x" * 256, "a/../?x=1", "arn:aws:bedrock:us-east-1:1:x", "claude-opus-5-5[1m]"])
def test_which_models_exist_is_not_judged_here(model: str) -> None:
    assert inspect(json.dumps({"model": model}).encode()) == MessageFacts(model, False, None, None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"model":"a","model":"b"}', "model"),
        (b'{"model":"a","model":"a"}', "model"),
        (b'{"model" : "a", "x":1, "model" :"b"}', "model"),
        (b'{"model":"a","mod\\u0065l":"b"}', "model"),
        (b'{"\\u006dodel":"a","mode\\u006C":"b"}', "model"),
        (b'{"model":"a","stream":true,"stream":false}', "stream"),
        (b'{"model":"a","stream":true,"\\u0073tream":false}', "stream"),
        (b'{"model":"a","tools":[{"model":1}],"model":"b"}', "model"),
    ],
)
def test_a_deciding_key_given_twice_is_refused(body: bytes, field: str) -> None:
    assert inspect(body) == BadRequest(f"{field}: given twice, expected once")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","tools":[{"properties":{"model":{"enum":["a"]},"stream":{}}}]}',
        b'{"model":"m","messages":[{"model":1,"model":2}]}',
        b'{"model":"m","system":"\\"model\\":\\"x\\", \\u0022model\\u0022, mod\\u0065l"}',
        b'{"model":"m","a":"model","b":"stream","c":"model"}',
        b'{"model":"m","top_p":1,"top_p":2}',
    ],
)
def test_the_same_word_elsewhere_is_no_duplicate(body: bytes) -> None:
    assert inspect(body) == MessageFacts("m", False, None, None)


@pytest.mark.parametrize("depth", [100, 300, 990, 1000, 1010, 1020, 1030])
@pytest.mark.parametrize("hint", [b'"\\u0061"', b'{"model":1}', b'{"model":1,"model":2}', b"1"])
def test_deep_nesting_is_read_or_refused_but_never_fails(depth: int, hint: bytes) -> None:
    body = b'{"model":"m","hint":' + hint + b',"deep":' + b"[" * depth + b"]" * depth + b"}"
    answer = inspect(body)
    assert answer == MessageFacts("m", False, None, None) or (depth > 900 and isinstance(answer, BadRequest))


@pytest.mark.parametrize("value", [0, -1, 10**12, 2**63, 128_000])
def test_any_whole_max_tokens_is_reported_as_it_stands(value: int) -> None:
    facts = inspect(json.dumps({"model": "m", "max_tokens": value}).encode())
    assert facts == MessageFacts("m", False, value, None)


@pytest.mark.parametrize("value", [1.5, "100", None, True, [], 10**30])
def test_another_max_tokens_is_left_to_the_provider(value: object) -> None:
    facts = inspect(json.dumps({"model": "m", "max_tokens": value}).encode())
    assert facts == MessageFacts("m", False, None, None)


@pytest.mark.parametrize(
    ("value", "stream"), [(True, True), (False, False), ("true", False), (1, False), (None, False)]
)
def test_only_true_asks_for_a_stream(value: object, stream: bool) -> None:
    assert inspect(json.dumps({"model": "m", "stream": value}).encode()) == MessageFacts("m", stream, None, None)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"messages": {}},
        {"messages": []},
        {"messages": [{}] * 100_001},
        {"messages": [{"role": "admin", "content": None}]},
        {"messages": [{"role": "user", "content": [{"type": "hologram"}]}], "betas": ["x"], "safeguards": {"a": 1}},
    ],
    ids=["missing", "object", "empty", "many", "odd", "future"],
)
def test_messages_and_unknown_fields_are_for_the_provider_to_judge(more: dict[str, Any]) -> None:
    assert inspect(json.dumps({"model": "m"} | more).encode()) == MessageFacts("m", False, None, None)


@pytest.mark.parametrize(
    ("user_id", "session"),
    [
        ('{"session_id":"s-1"}', "s-1"),
        (json.dumps({"session_id": "s" * 1_000_000}), "s" * 256),
        ('{"session_id":"a\\r\\nset-cookie: x"}', None),
        ('{"session_id":"a\\u0000"}', None),
        ('{"session_id":7}', None),
        ('{"session_id":', None),
        ("[1]", None),
        ("plain text", None),
        ({"session_id": "s-1"}, None),
        (None, None),
    ],
)
def test_a_session_id_is_short_and_printable_or_absent(user_id: object, session: str | None) -> None:
    body = json.dumps({"model": "m", "metadata": {"user_id": user_id}}).encode()
    assert inspect(body) == MessageFacts("m", False, None, session)


KEYS = st.sampled_from(["model", "stream", "mod\\u0065l", "strea\\u006d", "system", "x"])


@given(st.lists(st.tuples(KEYS, st.sampled_from(['"model"', '{"model":1}', '{"stream":[]}', '"\\u0065"', "true"]))))
def test_duplicates_are_found_as_a_plain_reader_finds_them(pairs: list[tuple[str, str]]) -> None:
    body = "{" + ",".join(f'"{key}":{value}' for key, value in pairs) + "}"
    names = [json.loads(f'"{key}"') for key, _ in pairs]
    answer = inspect(body.encode())
    twice = isinstance(answer, BadRequest) and "given twice" in answer.message
    assert twice == any(names.count(name) > 1 for name in ("model", "stream"))
