"""The whole daemon between a client and two simulated providers: who serves, and what the books say about it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.simulator.anthropic import AnthropicSimulator
from daemon.simulator.bedrock import BedrockSimulator
from daemon.simulator.script import Step, ToolUse
from tests.support.daemon import BEDROCK_API_KEY, IAM_KEY, RunningDaemon, running_daemon
from tests.support.simulator import running_bedrock, running_simulator

QUICK = {"PROXY_FIRST_BYTE_TIMEOUT": "0.4", "PROXY_CONNECT_TIMEOUT": "1", "PROXY_WHOLE_ANSWER_TIMEOUT": "0.6"}
RATE_LIMIT_TEXT = "This request would exceed your account's rate limit. See the response headers for current usage."

# Every way in which the plan fails that another provider may make good, by the failure kind it has to be seen as.
PLAN_FAILURES: dict[str, tuple[str, Step]] = {
    "429 with its headers": (
        "rate_limited",
        Step(
            status=429,
            error_type="rate_limit_error",
            message=RATE_LIMIT_TEXT,
            headers={"retry-after": "20", "anthropic-ratelimit-unified-status": "rejected"},
        ),
    ),
    "429 without any": ("rate_limited", Step(status=429, error_type="rate_limit_error", message="Rate limited")),
    "a limit of the tier": (
        "tier_limit",
        Step(status=429, error_type="rate_limit_error", message="Extra usage is required for long context requests."),
    ),
    "529": ("overloaded", Step(status=529, error_type="overloaded_error", message="Overloaded")),
    "overload in 200": ("overloaded", Step(error_event="overloaded_error", message="Overloaded")),
    "overload after message_start": (
        "overloaded",
        Step(error_event="overloaded_error", error_event_after=2, message="Overloaded"),
    ),
    "500": ("server_error", Step(status=500, error_type="api_error", message="Internal server error")),
    "503": ("server_error", Step(status=503, error_type="api_error", message="Service unavailable")),
    "spend limit as 400": (
        "spend_limit",
        Step(
            status=400,
            error_type="invalid_request_error",
            message="You have reached your specified API usage limits. You will regain access on 2026-12-01.",
        ),
    ),
    "spend limit as 402": ("spend_limit", Step(status=402, error_type="billing_error", message="Payment required")),
    "a page from a CDN": ("not_an_api_answer", Step(status=502, html=True)),
    "a page with status 200": ("not_an_api_answer", Step(html=True)),
    "silence": ("timeout", Step(hang=True)),
    "a reset": ("cut", Step(reset=True)),
    "a cut before content": ("cut", Step(cut_at=120)),
    "our own key refused": (
        "own_credential_refused",
        Step(status=401, error_type="authentication_error", message="invalid x-api-key"),
    ),
}


@dataclass
class Rig:
    """A daemon, its providers, and a client."""

    daemon: RunningDaemon
    plan: AnthropicSimulator
    bedrock: BedrockSimulator
    client: httpx.AsyncClient

    async def ask(
        self, key: str, *, stream: bool = True, headers: dict[str, str] | None = None, **fields: Any
    ) -> "Got":
        body = {
            "model": "claude-opus-5-5",
            "max_tokens": 100,
            "stream": stream,
            "messages": [{"role": "user", "content": "hi"}],
        } | fields
        answer = await self.client.post(f"/ak/{key}/v1/messages?beta=true", json=body, headers=headers)
        return Got(answer)


@dataclass
class Got:
    """An answer as the client reads it."""

    answer: httpx.Response

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line[6:]) for line in self.answer.text.splitlines() if line.startswith("data: ")]

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def text(self) -> str:
        if "event-stream" not in self.answer.headers["content-type"]:
            return "".join(block.get("text", "") for block in self.answer.json()["content"])
        return "".join(event["delta"].get("text", "") for event in self.events if "delta" in event)

    @property
    def provider(self) -> str:
        return str(self.answer.headers["x-proxy-provider"])


@asynccontextmanager
async def rig(tmp_path: Path, *, strict: bool = True, **variables: str) -> AsyncIterator[Rig]:
    async with (
        running_simulator() as (plan, plan_url),
        running_bedrock(BedrockSimulator(strict=strict)) as (bedrock, bedrock_url),
        running_daemon(tmp_path, plan_url, PROXY_BEDROCK_URL=bedrock_url, **(QUICK | variables)) as daemon,
        httpx.AsyncClient(base_url=daemon.url, timeout=20) as client,
    ):
        yield Rig(daemon, plan, bedrock, client)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("failure", PLAN_FAILURES)
async def test_bedrock_serves_when_the_plan_fails_and_the_books_say_why(
    tmp_path: Path, failure: str, stream: bool
) -> None:
    kind, step = PLAN_FAILURES[failure]
    if not stream and step.error_event is not None:
        step = Step(status=529, error_type="overloaded_error", message="Overloaded")
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        running.plan.script(step)
        running.bedrock.script(Step(text="from the other side"))
        got = await running.ask(key, stream=stream)
        assert got.answer.status_code == 200
        assert (got.text, got.provider) == ("from the other side", "bedrock")
        assert got.answer.headers["x-proxy-fallback-reason"] == kind
        if stream:
            assert got.kinds[0] == "message_start"
            assert got.kinds[-1] == "message_stop"
            assert got.events[0]["message"]["model"] == "claude-opus-5-5"
        [row] = await running.daemon.records()
    assert (row["provider"], row["fallback_reason"], row["ended"]) == ("bedrock", kind, "finished")
    assert [(attempt["provider"], attempt["failure"]) for attempt in row["attempts"]] == [
        ("plan", kind),
        ("bedrock", None),
    ]
    [served] = running.bedrock.log
    assert row["output_tokens"] == served["usage"]["output_tokens"]
    assert row["upstream_request_id"] == served["request_id"]
    assert row["cost_nano_usd"] > 0
    assert not row["estimated"]


async def test_the_client_gets_anthropics_own_error_when_bedrock_fails_too(tmp_path: Path) -> None:
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        running.plan.script(
            Step(status=429, error_type="rate_limit_error", message=RATE_LIMIT_TEXT, headers={"retry-after": "20"})
        )
        running.bedrock.script(Step(aws_error="ThrottlingException", message="Too many tokens"))
        got = await running.ask(key)
        [row] = await running.daemon.records()
    assert got.answer.status_code == 429
    assert got.answer.json()["error"] == {"type": "rate_limit_error", "message": RATE_LIMIT_TEXT}
    assert got.answer.headers["retry-after"] == "20"
    assert got.provider == "plan"
    assert [attempt["failure"] for attempt in row["attempts"]] == ["rate_limited", "rate_limited"]
    assert (row["provider"], row["status"], row["ended"]) == ("plan", 429, "error")


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_a_fault_of_the_request_is_the_clients_and_no_other_provider_is_asked(
    tmp_path: Path, status: int
) -> None:
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        running.plan.script(Step(status=status, error_type="invalid_request_error", message="prompt is too long"))
        got = await running.ask(key)
        assert got.answer.status_code == status
        assert got.answer.json()["error"]["message"] == "prompt is too long"
        assert running.bedrock.log == []


async def test_a_login_that_anthropic_refuses_is_the_clients_own_affair(tmp_path: Path) -> None:
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        running.plan.script(Step(status=401, error_type="authentication_error", message="OAuth token has expired"))
        got = await running.ask(key, headers={"authorization": "Bearer sk-ant-oat01-own"})
        assert (got.answer.status_code, running.bedrock.log) == (401, [])


async def test_nothing_is_asked_twice_once_content_has_gone_out(tmp_path: Path) -> None:
    tool = ToolUse("Bash", {"command": "rm -rf build"})
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        running.plan.script(Step(text="", tool_uses=(tool,), error_event="overloaded_error", error_event_after=4))
        got = await running.ask(key)
        assert got.kinds[-1] == "error"
        assert "message_stop" not in got.kinds
        assert running.bedrock.log == []


@pytest.mark.parametrize("credential", [BEDROCK_API_KEY, IAM_KEY], ids=["api key", "iam"])
@pytest.mark.parametrize("model", ["claude-opus-5-5", "claude-sonnet-4-5"])
async def test_both_wires_and_both_kinds_of_credential_serve(
    tmp_path: Path, credential: dict[str, str], model: str
) -> None:
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(strategy="bedrock_only", bedrock=credential)
        streamed = await running.ask(key, model=model)
        whole = await running.ask(key, model=model, stream=False)
        assert streamed.text == whole.text != ""
        assert streamed.events[0]["message"]["model"] == whole.answer.json()["model"] == model
        assert "invocationMetrics" not in streamed.answer.text + whole.answer.text
        rows = await running.daemon.records()
        assert running.plan.log == []
    route = "messages" if model == "claude-opus-5-5" else "invoke"
    assert {attempt["route"] for row in rows for attempt in row["attempts"]} == {route}
    for row, entry in zip(rows, running.bedrock.log, strict=True):
        assert row["input_tokens"] == entry["usage"]["input_tokens"]
        assert row["output_tokens"] == entry["usage"]["output_tokens"]
        assert entry["auth"] == ("bearer" if credential["auth"] == "api_key" else "sigv4")


async def test_an_unmapped_model_is_an_error_that_says_how_to_map_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(strategy="bedrock_only", bedrock=BEDROCK_API_KEY)
        got = await running.ask(key, model="claude-nobody-9")
        assert got.answer.status_code == 400
        assert "proxyctl models map" in got.answer.json()["error"]["message"]
        assert running.bedrock.log == []


async def test_bedrock_refusing_our_key_is_never_the_users_401(tmp_path: Path) -> None:
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(strategy="bedrock_only", bedrock=BEDROCK_API_KEY)
        for name in ("AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException"):
            arn = "User: arn:aws:iam::123456789012:user/x is not authorized"
            running.bedrock.script(Step(aws_error=name, message=arn))
            got = await running.ask(key)
            assert (got.answer.status_code, got.answer.json()["error"]["type"]) == (502, "api_error")
            assert "arn:" not in got.answer.text
            assert "123456789012" not in got.answer.text


async def test_a_session_that_moved_stays_where_it_is_for_its_dwell_time(tmp_path: Path) -> None:
    session = {"x-claude-code-session-id": "0b6a1d1e-session"}
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        running.plan.script(Step(status=529, error_type="overloaded_error"))
        assert (await running.ask(key, headers=session)).provider == "bedrock"
        again = await running.ask(key, headers=session)
        other = await running.ask(key, headers={"x-claude-code-session-id": "another"})
    assert (again.provider, again.answer.headers["x-proxy-fallback-reason"]) == ("bedrock", "sticky")
    assert other.provider == "plan"


async def test_what_concerns_one_request_does_not_move_its_session(tmp_path: Path) -> None:
    session = {"x-claude-code-session-id": "0b6a1d1e-session"}
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        running.plan.script(PLAN_FAILURES["a limit of the tier"][1])
        assert (await running.ask(key, headers=session)).provider == "bedrock"
        assert (await running.ask(key, headers=session)).provider == "plan"


async def test_a_circuit_opens_on_streams_too_and_one_request_tries_it(tmp_path: Path) -> None:
    patient = {"PROXY_FIRST_BYTE_TIMEOUT": "30"}
    async with rig(tmp_path, PROXY_STICKY_SECONDS="0", PROXY_CIRCUIT_RESET_TIMEOUT="1", **patient) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        running.plan.script(*[Step(status=529, error_type="overloaded_error")] * 3)
        for _ in range(4):
            assert (await running.ask(key)).provider == "bedrock"
        assert len(running.plan.log) == 3
        await asyncio.sleep(1.1)
        running.plan.script(Step(delay=6))  # until then all the others have come
        answers = await asyncio.gather(*(running.ask(key) for _ in range(100)))
        assert len(running.plan.log) == 4
        assert sorted(got.provider for got in answers) == ["bedrock"] * 99 + ["plan"]
        assert (await running.ask(key)).provider == "plan"
        rows = await running.daemon.records()
    assert rows[3]["attempts"][0]["failure"] == "circuit_open"


async def test_what_bedrock_does_not_take_is_learned_once_and_never_shown(tmp_path: Path) -> None:
    betas = ",".join(
        (
            "claude-code-20250219",
            "interleaved-thinking-2025-05-14",
            "context-management-2025-06-27",
            "per-turn-control-2026-07-01",
            "advanced-tool-use-2025-11-20",
            "effort-2025-11-24",
            "prompt-caching-scope-2026-01-05",
        )
    )
    fields: dict[str, Any] = {
        "system": [{"type": "text", "text": "You are", "cache_control": {"type": "ephemeral", "scope": "global"}}],
        "tools": [
            {"name": "Bash", "input_schema": {"type": "object"}, "strict": True},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
        ],
        "metadata": {"user_id": json.dumps({"device_id": "d" * 64, "session_id": "s-1"})},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "inference_geo": "us",
    }
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(strategy="bedrock_only", bedrock=BEDROCK_API_KEY)
        for model in ("claude-opus-5-5", "claude-haiku-4-5", "claude-sonnet-4-6"):
            got = await running.ask(key, model=model, headers={"anthropic-beta": betas}, **fields)
            assert got.answer.status_code == 200, got.answer.text
            before = len(running.bedrock.log)
            assert (await running.ask(key, model=model, headers={"anthropic-beta": betas}, **fields)).kinds[-1] == (
                "message_stop"
            )
            assert len(running.bedrock.log) == before + 1
