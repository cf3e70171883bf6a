"""The anthropic SDK judges: first the simulator, then the daemon in front of it. Both must be Anthropic to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anthropic
import pytest

from daemon.simulator.anthropic import AnthropicSimulator
from daemon.simulator.script import Step, ToolUse
from tests.support.daemon import running_daemon
from tests.support.simulator import running_simulator

MODEL = "claude-opus-5-5"
ASK = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(params=["simulator", "daemon", "daemon, key in the path"])
async def judged(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, AnthropicSimulator]]:
    """A client of the simulator, or of a daemon in front of it."""

    @asynccontextmanager
    async def client(base_url: str, api_key: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
        async with anthropic.AsyncAnthropic(base_url=base_url, api_key=api_key, max_retries=0) as made:
            yield made

    async with running_simulator() as (simulator, plan):
        if request.param == "simulator":
            async with client(plan, "any") as made:
                yield made, simulator
            return
        async with running_daemon(tmp_path, plan) as daemon:
            key = await daemon.create_key()
            base, api_key = (daemon.url, key) if request.param == "daemon" else (f"{daemon.url}/ak/{key}", "own-login")
            async with client(base, api_key) as made:
                yield made, simulator


async def test_a_whole_message(judged: tuple[anthropic.AsyncAnthropic, AnthropicSimulator]) -> None:
    client, simulator = judged
    simulator.script(Step(text="Good evening.", usage={"input": 9, "output": 4, "cache_write_1h": 2, "cache_read": 5}))
    message = await client.messages.create(**ASK)
    assert message.content[0].text == "Good evening."
    assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 4)
    assert message.usage.cache_creation is not None
    assert message.usage.cache_creation.ephemeral_1h_input_tokens == 2
    assert message.stop_reason == "end_turn"


async def test_a_stream_with_thinking_and_a_tool(judged: tuple[anthropic.AsyncAnthropic, AnthropicSimulator]) -> None:
    client, simulator = judged
    simulator.script(Step(thinking="Let me see.", text="Ünïcode 😀", tool_uses=(ToolUse("Bash", {"command": "ls"}),)))
    async with client.messages.stream(**ASK) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        message = await stream.get_final_message()
    assert text == "Ünïcode 😀"
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[0].signature.startswith("sig-")
    assert message.content[2].input == {"command": "ls"}
    assert message.stop_reason == "tool_use"


async def test_counting_tokens_and_listing_models(judged: tuple[anthropic.AsyncAnthropic, AnthropicSimulator]) -> None:
    client, _ = judged
    count = await client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert count.input_tokens > 0
    assert MODEL in [model.id async for model in client.models.list()]


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (404, "not_found_error", anthropic.NotFoundError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.InternalServerError),
    ],
)
async def test_error_classes(
    judged: tuple[anthropic.AsyncAnthropic, AnthropicSimulator],
    status: int,
    kind: str,
    error: type[anthropic.APIStatusError],
) -> None:
    client, simulator = judged
    simulator.script(Step(status=status, error_type=kind, message="as the provider words it"))
    with pytest.raises(error) as caught:
        await client.messages.create(**ASK)
    assert caught.value.status_code == status
    assert caught.value.body["error"] == {"type": kind, "message": "as the provider words it"}


async def test_an_overload_in_a_stream_is_an_error(judged: tuple[anthropic.AsyncAnthropic, AnthropicSimulator]) -> None:
    client, simulator = judged
    simulator.script(Step(error_event="overloaded_error", message="Overloaded"))
    with pytest.raises(anthropic.APIStatusError):
        async with client.messages.stream(**ASK) as stream:
            await stream.get_final_message()
