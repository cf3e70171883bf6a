"""Clients of AWS and Anthropic judge the simulated Bedrock: it must be Bedrock to them, its failures included."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import anthropic
import httpx
import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from botocore.exceptions import ClientError, EventStreamError

from daemon.simulator.anthropic import AnthropicSimulator
from daemon.simulator.bedrock import BedrockSimulator
from daemon.simulator.script import Step, ToolUse
from tests.simulator.clients import KEY_ID, SECRET, boto, mantle, native, sdk
from tests.support.simulator import logged, running_bedrock, running_simulator

OPUS = "us.anthropic.claude-opus-5-5"
OLD = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
ASK: dict[str, Any] = {"max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
INVOKE = {**ASK, "anthropic_version": "bedrock-2023-05-31"}
BEARER = {"authorization": "Bearer bedrock-api-key-of-the-tests"}


@pytest.fixture
async def bedrock() -> AsyncIterator[tuple[BedrockSimulator, str]]:
    """A strict simulator that knows one access key, and its URL."""
    async with running_bedrock(BedrockSimulator(secrets={KEY_ID: SECRET})) as running:
        yield running


@pytest.fixture(autouse=True)
def no_credentials_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "ANTHROPIC_BEDROCK_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def invoke(client: Any, body: dict[str, Any] | None = None, model: str = OPUS) -> tuple[dict[str, Any], dict[str, str]]:
    answer = client.invoke_model(modelId=model, body=json.dumps(body or INVOKE))
    with closing(answer["body"]) as stream:
        return json.loads(stream.read()), answer["ResponseMetadata"]["HTTPHeaders"]


def invoke_stream(client: Any, body: dict[str, Any] | None = None, model: str = OPUS) -> list[dict[str, Any]]:
    answer = client.invoke_model_with_response_stream(modelId=model, body=json.dumps(body or INVOKE))
    with closing(answer["body"]) as stream:
        return [json.loads(event["chunk"]["bytes"]) for event in stream]


def create(client: Any, model: str = OPUS, **fields: Any) -> Any:
    with client:
        return client.messages.create(model=model, **ASK, **fields)


def stream(client: Any) -> Any:
    with client, client.messages.stream(model=OPUS, **ASK) as opened:
        return opened.get_final_message()


def plain(url: str) -> str:
    return url.replace("https:", "http:")


@pytest.fixture
def aws(bedrock: tuple[BedrockSimulator, str]) -> Iterator[Any]:
    """A boto3 client of the simulator, with the right secret."""
    with boto(bedrock[1]) as client:
        yield client


async def post(url: str, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, verify=False) as client:
        return await client.post(path, json=body, headers=BEARER | headers)


# --- answers


async def test_boto3_invokes_a_model(aws: Any, bedrock: tuple[BedrockSimulator, str]) -> None:
    simulator, _ = bedrock
    simulator.script(Step(text="Good evening.", usage={"input": 9, "output": 4, "cache_read": 5, "cache_write_1h": 2}))
    message, headers = await asyncio.to_thread(invoke, aws)
    assert (message["content"], message["model"]) == ([{"type": "text", "text": "Good evening."}], "claude-opus-5-5")
    assert message["id"].startswith("msg_bdrk_")
    counts = [headers[f"x-amzn-bedrock-{name}-token-count"] for name in ("input", "output", "cache-read-input")]
    assert counts == ["9", "4", "5"]
    assert headers["x-amzn-bedrock-cache-write-input-token-count"] == "2"
    [entry] = await logged(simulator)
    assert (entry["auth"], entry["request_id"]) == ("sigv4", headers["x-amzn-requestid"])
    assert entry["body"] == ["anthropic_version", "max_tokens", "messages"]


@pytest.mark.parametrize("model", [OPUS, OLD, ARN])
async def test_boto3_reads_an_event_stream(aws: Any, bedrock: tuple[BedrockSimulator, str], model: str) -> None:
    simulator, _ = bedrock
    simulator.script(Step(thinking="Hm.", text="Ünïcode 😀", tool_uses=(ToolUse("Bash", {"command": "ls"}),)))
    events = await asyncio.to_thread(invoke_stream, aws, INVOKE, model)
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert "ping" not in kinds
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == "Ünïcode 😀"
    metrics = events[-1]["amazon-bedrock-invocationMetrics"]
    [entry] = await logged(simulator)
    assert (entry["ended"], entry["tool_uses"], entry["model_id"]) == ("finished", ["Bash"], model)
    assert metrics["inputTokenCount"] == entry["usage_sent"]["input_tokens"] == entry["usage"]["input_tokens"]
    assert metrics["outputTokenCount"] == entry["usage_sent"]["output_tokens"]


async def test_boto3_signs_nothing_when_it_has_a_bedrock_key(
    bedrock: tuple[BedrockSimulator, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator, url = bedrock
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "a-bedrock-api-key")
    with boto(url.replace("http:", "https:"), secret=None) as client:  # it sends keys over TLS only
        client.meta.events.register("before-send", lambda request, **_: setattr(request, "url", plain(request.url)))
        await asyncio.to_thread(invoke, client)
        await asyncio.to_thread(invoke_stream, client)
    assert [(entry["auth"], entry["stream"]) for entry in await logged(simulator, 2)] == [
        ("bearer", False),
        ("bearer", True),
    ]


async def test_the_sdk_for_bedrock_creates_and_streams(bedrock: tuple[BedrockSimulator, str]) -> None:
    simulator, url = bedrock
    simulator.script(Step(text="At once."), Step(text="Bit by bit.", usage={"input": 3, "output": 5, "cache_read": 7}))
    whole = await asyncio.to_thread(create, sdk(url))
    pieces = await asyncio.to_thread(stream, sdk(url))
    assert (whole.content[0].text, pieces.content[0].text) == ("At once.", "Bit by bit.")
    assert (pieces.usage.input_tokens, pieces.usage.output_tokens, pieces.usage.cache_read_input_tokens) == (3, 5, 7)
    assert [entry["path"] for entry in await logged(simulator, 2)] == [
        f"/model/{OPUS}/invoke",
        f"/model/{OPUS}/invoke-with-response-stream",
    ]


async def test_the_sdk_leaves_colons_raw_and_its_signature_is_right(
    aws: Any, bedrock: tuple[BedrockSimulator, str]
) -> None:
    simulator, url = bedrock
    version = {"anthropic_version": "bedrock-2023-05-31"}
    await asyncio.to_thread(lambda: create(sdk(url), OLD, extra_body=version))
    await asyncio.to_thread(invoke, aws, INVOKE, OLD)
    assert [entry["status"] for entry in await logged(simulator, 2)] == [200, 200]
    assert [":" in entry["path"] for entry in await logged(simulator, 2)] == [True, False]
    assert {entry["model"] for entry in await logged(simulator, 2)} == {"claude-haiku-4-5-20251001"}


async def test_sdk_clients_use_the_messages_route(bedrock: tuple[BedrockSimulator, str]) -> None:
    simulator, url = bedrock
    for client in (mantle, native):
        message = await asyncio.to_thread(stream, client(url))
        assert (message.model, message.stop_reason) == ("claude-opus-5-5", "end_turn")
        whole = await asyncio.to_thread(create, client(url))
        assert whole.id.startswith("msg_bdrk_")
    assert {(entry["auth"], entry["path"]) for entry in await logged(simulator, 4)} == {
        ("bearer", "/anthropic/v1/messages")
    }


async def test_boto3_counts_tokens_of_older_models_by_their_bare_id(
    aws: Any, bedrock: tuple[BedrockSimulator, str]
) -> None:
    simulator, _ = bedrock

    def count(model: str) -> int:
        wrapped = {"invokeModel": {"body": json.dumps(INVOKE).encode()}}
        return int(aws.count_tokens(modelId=model, input=wrapped)["inputTokens"])

    assert await asyncio.to_thread(count, "anthropic.claude-sonnet-4-6") > 0
    with pytest.raises(ClientError, match="doesn't support counting tokens"):
        await asyncio.to_thread(count, "anthropic.claude-opus-5-5")
    with pytest.raises(ClientError, match="model identifier is invalid"):
        await asyncio.to_thread(count, OLD)
    assert [(entry["kind"], entry["status"]) for entry in await logged(simulator, 3)] == [
        ("count_tokens", 200),
        ("count_tokens", 400),
        ("count_tokens", 400),
    ]


async def test_boto3_lists_inference_profiles_page_by_page(bedrock: tuple[BedrockSimulator, str]) -> None:
    _, url = bedrock

    def listed(client: Any) -> list[str]:
        pages = client.get_paginator("list_inference_profiles").paginate(
            typeEquals="SYSTEM_DEFINED", PaginationConfig={"PageSize": 7}
        )
        return [summary["inferenceProfileId"] for page in pages for summary in page["inferenceProfileSummaries"]]

    with boto(url, service="bedrock") as client:
        profiles = await asyncio.to_thread(listed, client)
    assert {OPUS, OLD, "global.anthropic.claude-sonnet-4-6"} <= set(profiles)
    assert len(profiles) == len(set(profiles))


@pytest.mark.parametrize("path", ["/anthropic/v1/messages/count_tokens", "/anthropic/v1/models", "/anthropic/v1/files"])
async def test_the_messages_route_knows_no_other_operation(bedrock: tuple[BedrockSimulator, str], path: str) -> None:
    simulator, url = bedrock
    answer = await post(url, path, {})
    assert (answer.status_code, "UnknownOperation" in answer.text) == (200, True)
    assert (await logged(simulator))[0]["kind"] == "unknown_operation"


# --- credentials and models


async def test_a_wrong_secret_and_an_unknown_key_are_refused(aws: Any, bedrock: tuple[BedrockSimulator, str]) -> None:
    simulator, url = bedrock
    with pytest.raises(ClientError) as caught, boto(url, secret="wrong") as client:
        await asyncio.to_thread(invoke, client)
    assert caught.value.response["Error"]["Code"] == "InvalidSignatureException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    simulator._secrets = {}
    with pytest.raises(ClientError) as caught:
        await asyncio.to_thread(invoke, aws)
    assert caught.value.response["Error"]["Code"] == "UnrecognizedClientException"


async def test_a_key_that_is_not_listed_is_refused_on_both_routes() -> None:
    async with running_bedrock(BedrockSimulator(api_keys=["right"])) as (_, url):
        for key, status in (("right", 200), ("wrong", 403)):
            messages = await post(url, "/anthropic/v1/messages", {"model": OPUS, **ASK}, authorization=f"Bearer {key}")
            invoked = await post(url, f"/model/{OPUS}/invoke", INVOKE, authorization=f"Bearer {key}")
            assert (messages.status_code, invoked.status_code) == (status, status)


@pytest.mark.parametrize(
    ("headers", "status", "auth"),
    [({}, 403, "none"), (BEARER | {"x-api-key": "k"}, 400, "both"), ({"x-api-key": "k"}, 200, "x-api-key")],
)
async def test_exactly_one_credential_is_wanted(
    bedrock: tuple[BedrockSimulator, str], headers: dict[str, str], status: int, auth: str
) -> None:
    simulator, url = bedrock
    async with httpx.AsyncClient(base_url=url, verify=False) as client:
        answer = await client.post("/anthropic/v1/messages", json={"model": OPUS, **ASK}, headers=headers)
    assert answer.status_code == status
    assert ((await logged(simulator))[0]["auth"], (await logged(simulator))[0]["status"]) == (auth, status)


@pytest.mark.parametrize(
    ("model", "natively", "invoked"),
    [
        (OPUS, 200, 200),
        (OLD, 404, 200),
        ("us.anthropic.claude-opus-4-6-v1", 404, 200),
        ("eu.anthropic.claude-sonnet-4-6", 404, 200),
        ("anthropic.claude-opus-5-5", 400, 400),
        ("apac.anthropic.claude-opus-5-5", 400, 400),
        ("claude-opus-5-5", 400, 400),
        (ARN.replace("/", "%2F"), 400, 200),
    ],
)
async def test_each_route_serves_its_models(
    bedrock: tuple[BedrockSimulator, str], model: str, natively: int, invoked: int
) -> None:
    _, url = bedrock
    answers = [
        await post(url, "/anthropic/v1/messages", {"model": model.replace("%2F", "/"), **ASK}),
        await post(url, f"/model/{model}/invoke", INVOKE),
    ]
    assert [answer.status_code for answer in answers] == [natively, invoked]
    if natively == 404:
        assert answers[0].json()["error"]["type"] == "not_found_error"
    if natively == 400:
        assert answers[0].json()["error"]["message"] == "The provided model identifier is invalid."


# --- refusals


def with_tool(**fields: Any) -> dict[str, Any]:
    return {"tools": [{"name": "a", "input_schema": {"type": "object"}, **fields}]}


EXTRA = "Extra inputs are not permitted"
EVERYWHERE: list[tuple[dict[str, Any], str]] = [
    ({"output_config": {"effort": "high", "format": {"type": "json_schema"}}}, f"output_config.format: {EXTRA}"),
    (with_tool(strict=True), f"tools.0.custom.strict: {EXTRA}"),
    (
        with_tool(cache_control={"type": "ephemeral", "scope": "global"}),
        f"tools.0.custom.cache_control.ephemeral.scope: {EXTRA}",
    ),
    (
        {"system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "scope": "global"}}]},
        f"system.0.cache_control.ephemeral.scope: {EXTRA}",
    ),
    ({"inference_geo": "us"}, f"inference_geo: {EXTRA}"),
    ({"fallbacks": []}, f"fallbacks: {EXTRA}"),
    ({"context_management": {"edits": []}}, f"context_management: {EXTRA}"),
    (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "tool type 'web_search_20250305' is not supported",
    ),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, '"thinking.type.enabled" is not supported for this'),
    ({"temperature": 1}, "`temperature` is deprecated for this model."),
    ({"top_p": 0.5}, "`top_p` is deprecated for this model."),
    ({"top_k": 5}, "`top_k` is deprecated for this model."),
    ({"tool_choice": {"type": "any"}, **with_tool()}, "Thinking may not be enabled when tool_choice forces tool use."),
]


@pytest.mark.parametrize(("fields", "text"), EVERYWHERE)
async def test_both_routes_refuse(bedrock: tuple[BedrockSimulator, str], fields: dict[str, Any], text: str) -> None:
    simulator, url = bedrock
    simulator.script(Step(text="for whom it is due"))
    messages = await post(url, "/anthropic/v1/messages", {"model": OPUS, **ASK, **fields})
    invoked = await post(url, f"/model/{OPUS}/invoke", {**INVOKE, **fields})
    assert (messages.status_code, invoked.status_code) == (400, 400)
    assert messages.json()["error"]["type"] == "invalid_request_error"
    assert messages.json()["error"]["message"].startswith(text)
    assert invoked.json()["message"].startswith(text)
    name, _, rest = invoked.headers["x-amzn-errortype"].partition(":")
    assert (name, rest) == ("ValidationException", "http://internal.amazon.com/coral/com.amazon.bedrock/")
    assert [(entry["status"], entry["ended"], entry["usage_sent"]) for entry in await logged(simulator, 2)] == [
        (400, "error", None)
    ] * 2
    served = await post(url, "/anthropic/v1/messages", {"model": OPUS, **ASK})
    assert served.json()["content"][0]["text"] == "for whom it is due"


async def test_only_the_messages_route_minds_a_user_id_that_is_json(bedrock: tuple[BedrockSimulator, str]) -> None:
    _, url = bedrock
    fields = {"metadata": {"user_id": '{"device_id":"a"}'}}
    messages = await post(url, "/anthropic/v1/messages", {"model": OPUS, **ASK, **fields})
    assert messages.status_code == 400
    assert messages.json()["error"]["message"].startswith("Request metadata contains a value that violates the regular")
    assert (await post(url, f"/model/{OPUS}/invoke", {**INVOKE, **fields})).status_code == 200


@pytest.mark.parametrize("name", ["anthropic_version", "max_tokens", "messages"])
async def test_invoke_wants_its_fields(aws: Any, name: str) -> None:
    with pytest.raises(ClientError, match=f"{name}: Field required"):
        await asyncio.to_thread(invoke, aws, {key: value for key, value in INVOKE.items() if key != name})


@pytest.mark.parametrize("name", ["model", "stream", "service_tier", "container", "mcp_servers", "cache_control"])
async def test_invoke_takes_no_field_of_the_native_api(aws: Any, name: str) -> None:
    with pytest.raises(ClientError, match=f"{name}: {EXTRA}"):
        await asyncio.to_thread(invoke, aws, {**INVOKE, name: None})


@pytest.mark.parametrize(
    "beta",
    ["oauth-2025-04-20", "prompt-caching-scope-2026-01-05", "per-turn-control-2026-07-01", "fast-mode-2026-02-01"],
)
async def test_betas_are_refused_where_each_route_reads_them(bedrock: tuple[BedrockSimulator, str], beta: str) -> None:
    simulator, url = bedrock
    header = {"anthropic-beta": f"effort-2025-11-24,{beta}"}
    messages = await post(url, "/anthropic/v1/messages", {"model": OPUS, **ASK}, **header)
    assert f"Unexpected value(s) `{beta}` for the `anthropic-beta` header" in messages.json()["error"]["message"]
    assert (await post(url, f"/model/{OPUS}/invoke", INVOKE, **header)).status_code == 200
    invoked = await post(url, f"/model/{OPUS}/invoke", {**INVOKE, "anthropic_beta": ["effort-2025-11-24", beta]})
    assert (invoked.status_code, invoked.json()) == (400, {"message": "invalid beta flag"})
    assert all(entry["betas"] == ["effort-2025-11-24", beta] for entry in simulator.log)


async def test_older_models_want_the_older_forms(bedrock: tuple[BedrockSimulator, str]) -> None:
    _, url = bedrock
    path = f"/model/{OLD}/invoke"
    fine = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"format": {}}, "top_k": 5}
    assert (await post(url, path, INVOKE | fine)).status_code == 200
    adaptive = await post(url, path, {**INVOKE, "thinking": {"type": "adaptive"}})
    assert adaptive.json()["message"] == "adaptive thinking is not supported on this model"
    eager = await post(url, path, INVOKE | with_tool(eager_input_streaming=True))
    assert eager.json()["message"] == f"tools.0.custom.eager_input_streaming: {EXTRA}"


async def test_what_is_accepted_can_be_widened_and_narrowed() -> None:
    everything = {"model": "any", "metadata": {"user_id": "{}"}, "temperature": 0, "fallbacks": []}
    async with (
        running_bedrock(BedrockSimulator(strict=False)) as (_, url),
        httpx.AsyncClient(base_url=url, verify=False) as client,
    ):
        assert (await client.post("/anthropic/v1/messages", json=everything)).status_code == 200
    async with running_bedrock(BedrockSimulator(refused_betas=("effort-*",))) as (_, url):
        answer = await post(url, "/anthropic/v1/messages", {"model": OPUS, **ASK}, **{"anthropic-beta": "effort-1"})
        assert answer.status_code == 400


# --- failures


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("ThrottlingException", 429),
        ("ModelNotReadyException", 429),
        ("ServiceUnavailableException", 503),
        ("AccessDeniedException", 403),
        ("ServiceQuotaExceededException", 400),
        ("ResourceNotFoundException", 404),
        ("ModelTimeoutException", 408),
        ("InternalServerException", 500),
    ],
)
async def test_boto3_knows_the_errors_by_name(
    aws: Any, bedrock: tuple[BedrockSimulator, str], name: str, status: int
) -> None:
    simulator, _ = bedrock
    for call in (invoke, invoke_stream):
        simulator.script(Step(aws_error=name))
        with pytest.raises(aws.exceptions.from_code(name)) as caught:
            await asyncio.to_thread(call, aws)
        assert isinstance(caught.value, ClientError)
        assert caught.value.response["Error"]["Code"] == name
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("ThrottlingException", anthropic.RateLimitError),
        ("AccessDeniedException", anthropic.PermissionDeniedError),
        ("ServiceUnavailableException", anthropic.InternalServerError),
    ],
)
async def test_the_sdk_knows_the_errors_by_class_on_both_routes(
    bedrock: tuple[BedrockSimulator, str], name: str, error: type[Exception]
) -> None:
    simulator, url = bedrock
    for client in (sdk(url), native(url)):
        simulator.script(Step(aws_error=name, message="as the provider words it"))
        with pytest.raises(error, match="as the provider words it"):
            await asyncio.to_thread(create, client)


@pytest.mark.parametrize("after", [None, 3])
async def test_an_exception_in_the_stream_is_one_to_boto3(
    aws: Any, bedrock: tuple[BedrockSimulator, str], after: int | None
) -> None:
    simulator, _ = bedrock
    simulator.script(Step(exception_frame="throttlingException", exception_after=after))
    with pytest.raises(EventStreamError, match="Too many tokens") as caught:
        await asyncio.to_thread(invoke_stream, aws)
    assert caught.value.response["Error"]["Code"] == "throttlingException"
    [entry] = await logged(simulator)
    assert (entry["status"], entry["ended"]) == (200, "exception_frame")
    assert (entry["usage_sent"] is None) == (after is None)


async def test_an_unmodeled_error_in_the_stream_is_one_to_boto3(
    aws: Any, bedrock: tuple[BedrockSimulator, str]
) -> None:
    simulator, _ = bedrock
    simulator.script(Step(error_event="InternalFailure", message="boom"))
    with pytest.raises(EventStreamError, match="boom"):
        await asyncio.to_thread(invoke_stream, aws)


async def test_an_exception_is_an_error_event_on_the_messages_route(bedrock: tuple[BedrockSimulator, str]) -> None:
    simulator, url = bedrock
    simulator.script(Step(exception_frame="throttlingException", exception_after=4))
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        await asyncio.to_thread(stream, native(url))
    assert (await logged(simulator))[0]["ended"] == "error_event"


async def test_botocore_notices_a_flipped_bit(aws: Any, bedrock: tuple[BedrockSimulator, str]) -> None:
    simulator, _ = bedrock
    simulator.script(Step(flip_at=150))
    with pytest.raises(ChecksumMismatch):
        await asyncio.to_thread(invoke_stream, aws)
    assert ((await logged(simulator))[0]["ended"], (await logged(simulator))[0]["usage_sent"]) == ("damaged", None)


@pytest.mark.parametrize(
    ("route", "stream"), [("native", True), ("native", False), ("invoke", True), ("invoke", False)]
)
async def test_a_cut_answer_is_cut_on_every_route_and_logged_so(
    bedrock: tuple[BedrockSimulator, str], route: str, stream: bool
) -> None:
    simulator, url = bedrock
    simulator.script(Step(cut_at=100))
    operation = "invoke-with-response-stream" if stream else "invoke"
    path = "/anthropic/v1/messages" if route == "native" else f"/model/{OPUS}/{operation}"
    body = {"model": OPUS, "stream": stream, **ASK} if route == "native" else INVOKE
    with pytest.raises(httpx.RemoteProtocolError):
        await post(url, path, body)
    [entry] = await logged(simulator)
    assert (entry["ended"], entry["status"], entry["bytes_sent"]) == ("cut", 200, 100)
    assert (entry["message_id"], entry["usage_sent"]) == (None, None)
    assert entry["usage"]["output_tokens"] > 0


async def test_a_reset_is_a_reset_before_any_answer(bedrock: tuple[BedrockSimulator, str]) -> None:
    simulator, url = bedrock
    simulator.script(Step(reset=True))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    body = json.dumps(INVOKE).encode()
    head = f"POST /model/{OPUS}/invoke HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert ((await logged(simulator))[0]["status"], (await logged(simulator))[0]["ended"]) == (None, "reset")


async def test_odd_answers_are_sent_as_scripted(bedrock: tuple[BedrockSimulator, str]) -> None:
    simulator, url = bedrock
    simulator.script(
        Step(unknown_operation=True),
        Step(status=429, raw_error={"Message": "odd"}),
        Step(html=True, status=502),
    )
    answers = [await post(url, f"/model/{OPUS}/invoke", INVOKE) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 429, 502]
    assert answers[0].json()["Output"]["__type"] == "com.amazon.coral.service#UnknownOperationException"
    assert answers[1].json() == {"Message": "odd"}
    assert answers[2].headers["content-type"] == "text/html"
    assert {entry["ended"] for entry in simulator.log} == {"error"}


async def test_a_payload_of_more_than_twenty_megabytes_is_too_large(bedrock: tuple[BedrockSimulator, str]) -> None:
    _, url = bedrock
    body = {**INVOKE, "system": "x" * 20_000_001}
    assert (await post(url, f"/model/{OPUS}/invoke", body)).status_code == 413


async def test_frames_are_padded_to_lengths_that_tell_nothing(bedrock: tuple[BedrockSimulator, str]) -> None:
    _, url = bedrock
    answer = await post(url, f"/model/{OPUS}/invoke-with-response-stream", INVOKE)
    assert answer.headers["content-type"] == "application/vnd.amazon.eventstream"
    buffer = EventStreamBuffer()
    buffer.add_data(answer.content)
    payloads = [json.loads(frame.payload) for frame in buffer]
    assert len({payload["p"] for payload in payloads}) > 5
    assert json.loads(base64.b64decode(payloads[-1]["bytes"]))["type"] == "message_stop"


async def test_the_signature_covers_the_body(aws: Any) -> None:
    def tamper(request: Any, **_: Any) -> None:
        request.body = request.body.replace(b"hi", b"ho")

    aws.meta.events.register("before-send.bedrock-runtime.InvokeModel", tamper)
    with pytest.raises(ClientError) as caught:
        await asyncio.to_thread(invoke, aws)
    assert caught.value.response["Error"]["Code"] == "InvalidSignatureException"


# --- thinking blocks across providers


async def test_a_thinking_block_survives_a_change_of_provider_but_not_of_its_conversation() -> None:
    """Minted by the one, accepted by the other, refused once the tools before it were rewritten."""
    thinking: dict[str, Any] = {"type": "adaptive"}
    question = {"role": "user", "content": "hi"}
    body = {"max_tokens": 100, "thinking": thinking, **with_tool(strict=True)}
    async with (
        running_simulator(AnthropicSimulator(bound_thinking=True)) as (_, plan),
        running_bedrock(BedrockSimulator(bound_thinking=True)) as (_, url),
    ):
        minted = await post(plan, "/v1/messages", {"model": "claude-opus-5-5", **body, "messages": [question]})
        assert minted.json()["content"][0]["type"] == "thinking"
        marked = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
        history = [
            {"role": "user", "content": [marked]},  # cache marks do not count, nor does the form of a text
            {"role": "assistant", "content": minted.json()["content"]},
            {"role": "user", "content": "go on"},
        ]
        rewritten = {**body, **with_tool(), "messages": history}
        again = await post(plan, "/v1/messages", {"model": "claude-opus-5-5", **body, "messages": history})
        refused = await post(url, "/anthropic/v1/messages", {"model": OPUS, **rewritten})
        tolerant = {**thinking, "block_binding": {"prefix_mismatch_behavior": "drop_block"}}
        dropped = await post(
            url,
            "/anthropic/v1/messages",
            {"model": OPUS, **rewritten, "thinking": tolerant},
            **{"anthropic-beta": "thinking-binding-controls-2026-08-01"},
        )
        unbound = await post(url, "/anthropic/v1/messages", {"model": "us.anthropic.claude-sonnet-5-5", **rewritten})
    assert (again.status_code, refused.status_code, dropped.status_code, unbound.status_code) == (200, 400, 200, 200)
    text = refused.json()["error"]["message"]
    assert text.startswith("messages.1.content.0: Invalid `signature` in `thinking` block.")
