"""The simulated Anthropic: its scenarios, its prompt cache, and a log that says only what was sent."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

from daemon.simulator.anthropic import AnthropicSimulator
from daemon.simulator.script import Step, ToolUse, step_from
from tests.support.simulator import running_bedrock, running_simulator

MODEL = "claude-opus-5-5"
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("Bash", "Read")]


@pytest.fixture
async def simulated() -> AsyncIterator[tuple[AnthropicSimulator, httpx.AsyncClient]]:
    """A simulator and an authenticated client of it."""
    async with (
        running_simulator() as (simulator, url),
        httpx.AsyncClient(base_url=url, verify=False, headers={"authorization": "Bearer any"}) as client,
    ):
        yield simulator, client


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


async def converse(client: httpx.AsyncClient, prompt: str, **fields: Any) -> list[list[dict[str, Any]]]:
    """The contents of all answers until one asks for no tool; every tool says `ok`."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    contents: list[list[dict[str, Any]]] = []
    while True:
        answer = (
            await client.post("/v1/messages", json={**ASK, "tools": TOOLS, **fields, "messages": messages})
        ).json()
        contents.append(answer["content"])
        uses = [block["id"] for block in answer["content"] if block["type"] == "tool_use"]
        if not uses:
            return contents
        results = [{"type": "tool_result", "tool_use_id": use, "content": "ok"} for use in uses]
        messages += [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": results}]


# --- scenarios


async def test_the_tool_loop_runs_a_command_reads_a_file_and_ends(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient],
) -> None:
    simulator, client = simulated
    first, second, third = await converse(client, "[[tool-loop]] [[file:/tmp/x]]")
    assert first[-1]["input"] == {"command": "echo proxyctl-was-here"}
    assert second[-1]["input"] == {"file_path": "/tmp/x"}
    assert third == [{"type": "text", "text": "The tool loop is done."}]
    assert [entry["tool_uses"] for entry in simulator.log] == [["Bash"], ["Read"], []]
    assert len({entry["message_id"] for entry in simulator.log}) == 3


async def test_who_pays_for_a_request_is_no_part_of_its_prompt(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient],
) -> None:
    simulator, client = simulated
    prompt = {"type": "text", "text": "You are. " * 500, "cache_control": {"type": "ephemeral"}}
    for number in range(2):
        paid = {"type": "text", "text": f"x-anthropic-billing-header: cch={number};"}
        await client.post("/v1/messages", json={**ASK, "system": [paid, prompt]})
    first, second = (entry["usage"] for entry in simulator.log)
    assert second["cache_read_input_tokens"] == first["cache_creation_input_tokens"] > 0


async def test_a_tool_loop_may_run_several_commands_that_leave_lines_in_a_file(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient],
) -> None:
    _, client = simulated
    contents = await converse(client, "[[tool-loop]] [[commands:3]] [[log:/tmp/l]]")
    inputs = [content[-1].get("input") for content in contents]
    commands = [{"command": f"echo proxyctl-was-here-{number} | tee -a /tmp/l"} for number in (1, 2, 3)]
    assert inputs == [*commands, {"file_path": "/etc/hostname"}, None]


async def test_parallel_tools_come_in_one_answer(simulated: tuple[AnthropicSimulator, httpx.AsyncClient]) -> None:
    simulator, client = simulated
    first, last = await converse(client, "[[parallel-tools]]")
    uses = [block for block in first if block["type"] == "tool_use"]
    assert [use["name"] for use in uses] == ["Bash", "Bash"]
    assert len({use["id"] for use in uses}) == 2
    assert "2 results" in last[0]["text"]
    assert simulator.log[0]["tool_uses"] == ["Bash", "Bash"]


@pytest.mark.parametrize(
    ("thinking", "thought"),
    [
        (None, None),
        ({"type": "disabled"}, None),
        ({"type": "adaptive"}, "The prompt"),
        ({"type": "enabled", "budget_tokens": 1024}, "The prompt"),
        ({"type": "adaptive", "display": "omitted"}, ""),
    ],
)
async def test_it_thinks_before_it_speaks_when_asked_to(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient], thinking: dict[str, Any] | None, thought: str | None
) -> None:
    _, client = simulated
    for content in await converse(client, "[[tool-loop]]", **({"thinking": thinking} if thinking else {})):
        if thought is None:
            assert "thinking" not in [block["type"] for block in content]
        else:
            assert content[0]["type"] == "thinking"
            assert content[0]["thinking"].startswith(thought)
            assert content[0]["signature"]
            assert content[1]["type"] == "text"


async def test_a_stream_and_a_whole_message_say_the_same(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient],
) -> None:
    simulator, client = simulated
    step = Step(thinking="Hm.", text="Long enough for several pieces.", tool_uses=(ToolUse("Bash", {"command": "ls"}),))
    simulator.script(step, step)
    whole = (await client.post("/v1/messages", json=ASK)).json()
    sdk = anthropic.AsyncAnthropic(base_url=str(client.base_url), api_key="any", max_retries=0)
    async with sdk, sdk.messages.stream(**ASK) as stream:
        streamed = (await stream.get_final_message()).to_dict()
    for document in (whole, streamed):
        for block in document["content"]:
            block.pop("signature", None)
            block.pop("id", None)
    assert streamed["content"] == whole["content"]


# --- usage


async def test_the_last_usage_of_a_stream_restates_the_input(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient],
) -> None:
    simulator, client = simulated
    simulator.script(Step(usage={"input": 9, "output": 4, "cache_write_5m": 3, "cache_write_1h": 2, "cache_read": 5}))
    events = events_of(await client.post("/v1/messages", json={**ASK, "stream": True}))
    [delta] = [event for event in events if event["type"] == "message_delta"]
    assert delta["usage"] == {
        "input_tokens": 9,
        "output_tokens": 4,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 5,
    }
    assert simulator.log[0]["usage_sent"] == simulator.log[0]["usage"]


def marked(text: str, **mark: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral", **mark}}


async def test_a_marked_prefix_is_written_once_and_read_afterwards(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient],
) -> None:
    _, client = simulated
    system = [marked("s" * 4000, ttl="1h")]
    first: dict[str, Any] = {**ASK, "system": system, "messages": [{"role": "user", "content": [marked("u" * 2000)]}]}
    later = [
        {"role": "user", "content": [{"type": "text", "text": "u" * 2000}]},  # the mark has moved on
        {"role": "assistant", "content": "a" * 400},
        {"role": "user", "content": [marked("v" * 800)]},
    ]
    one, again, two = [
        (await client.post("/v1/messages", json=body)).json()["usage"]
        for body in (first, first, {**first, "messages": later})
    ]
    hour, five = one["cache_creation"]["ephemeral_1h_input_tokens"], one["cache_creation"]["ephemeral_5m_input_tokens"]
    assert (1000 < hour < 1050, 500 < five < 550, one["cache_read_input_tokens"]) == (True, True, 0)
    assert (again["cache_creation_input_tokens"], again["cache_read_input_tokens"]) == (0, hour + five)
    assert two["cache_read_input_tokens"] == hour + five
    assert 300 < two["cache_creation"]["ephemeral_5m_input_tokens"] < 350
    assert two["cache_creation"]["ephemeral_1h_input_tokens"] == 0


async def test_without_marks_and_for_another_model_nothing_is_cached(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient],
) -> None:
    _, client = simulated
    cached = {**ASK, "system": [marked("s" * 4000)]}
    await client.post("/v1/messages", json=cached)
    other = (await client.post("/v1/messages", json={**cached, "model": "claude-haiku-5-5"})).json()["usage"]
    plain = (await client.post("/v1/messages", json={**ASK, "system": "s" * 4000})).json()["usage"]
    assert (other["cache_read_input_tokens"], other["cache_creation_input_tokens"] > 0) == (0, True)
    assert (plain["cache_read_input_tokens"], plain["cache_creation_input_tokens"]) == (0, 0)


# --- the log


async def test_an_error_event_after_some_events_is_not_a_finished_stream(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient],
) -> None:
    simulator, client = simulated
    simulator.script(
        Step(text="A longer answer than that.", error_event="overloaded_error", error_event_after=4),
        Step(error_event="api_error"),
    )
    kinds = [
        [event["type"] for event in events_of(await client.post("/v1/messages", json={**ASK, "stream": True}))]
        for _ in range(2)
    ]
    assert kinds == [["message_start", "ping", "content_block_start", "content_block_delta", "error"], ["error"]]
    some, nothing = simulator.log
    assert (some["ended"], some["usage_sent"]["output_tokens"]) == ("error_event", 1)
    assert (nothing["ended"], nothing["usage_sent"], nothing["message_id"]) == ("error_event", None, None)


async def test_only_tools_that_reached_the_client_whole_are_logged(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient],
) -> None:
    simulator, client = simulated
    uses = (ToolUse("Bash", {"command": "ls"}), ToolUse("Read", {"file_path": "/a/rather/long/path"}))
    simulator.script(Step(text="x", tool_uses=uses))
    whole = await client.post("/v1/messages", json={**ASK, "stream": True})
    cut_at = whole.text.index("partial_json", whole.text.index('"Read"'))
    simulator.script(Step(text="x", tool_uses=uses, cut_at=cut_at))
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/v1/messages", json={**ASK, "stream": True})
    assert [entry["tool_uses"] for entry in simulator.log] == [["Bash", "Read"], ["Bash"]]
    assert [entry["ended"] for entry in simulator.log] == ["finished", "cut"]


async def test_refusals_and_counts_are_logged_with_their_kind(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient],
) -> None:
    simulator, client = simulated
    simulator.script(Step(text="kept for a good request"))
    assert (await client.post("/v1/messages", json=ASK, headers={"authorization": ""})).status_code == 401
    assert (await client.post("/v1/messages", content=b"{")).status_code == 400
    assert (await client.post("/v1/messages", json=[1])).status_code == 400
    assert (await client.post("/v1/messages/count_tokens", json=ASK)).status_code == 200
    assert (await client.get("/v1/models")).status_code == 200
    assert [(entry["kind"], entry["status"]) for entry in simulator.log] == [
        ("messages", 401),
        ("messages", 400),
        ("messages", 400),
        ("count_tokens", 200),
    ]
    assert [entry["auth"] for entry in simulator.log] == ["none", "bearer", "bearer", "bearer"]
    assert "kept" in (await client.post("/v1/messages", json=ASK)).text


async def test_a_client_that_leaves_is_logged_with_what_it_had(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient],
) -> None:
    simulator, client = simulated
    simulator.script(Step(event_delay=0.2), Step(hang=True))
    async with client.stream("POST", "/v1/messages", json={**ASK, "stream": True}) as answer:
        await anext(answer.aiter_bytes())
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/v1/messages", json=ASK, timeout=0.1)
    async with asyncio.timeout(5):
        while len(simulator.log) < 2:
            await asyncio.sleep(0.005)
    left, never = sorted(simulator.log, key=lambda entry: str(entry["request_id"]))
    assert (left["ended"], left["status"], left["usage_sent"]["output_tokens"]) == ("peer_closed", 200, 1)
    assert (never["ended"], never["status"], never["usage_sent"]) == ("peer_closed", None, None)


async def test_a_flipped_bit_is_where_the_script_says(simulated: tuple[AnthropicSimulator, httpx.AsyncClient]) -> None:
    simulator, client = simulated
    simulator.script(Step(flip_at=0))
    answer = await client.post("/v1/messages", json=ASK)
    assert answer.content[0] == ord("{") ^ 1
    assert (simulator.log[0]["ended"], simulator.log[0]["usage_sent"]) == ("damaged", None)


# --- control


@pytest.mark.parametrize(
    "document",
    ["{", "[1]", "7", '{"no_such_field": 1}', '{"status": "200"}', '{"tool_uses": [{"name": "Bash"}]}', '{"usage": 3}'],
)
async def test_a_bad_script_is_a_bad_request(
    simulated: tuple[AnthropicSimulator, httpx.AsyncClient], document: str
) -> None:
    simulator, client = simulated
    assert (await client.post("/_sim/script", content=document)).status_code == 400
    assert (await client.post("/v1/messages", json=ASK, headers={"x-sim-script": document})).status_code == 400
    assert simulator.log[0]["status"] == 400


def test_a_step_is_read_from_json() -> None:
    document = '{"text": "a", "delay": 1, "cut_at": null, "tool_uses": [{"name": "Bash", "input": {"command": "ls"}}]}'
    assert step_from(document) == Step(text="a", delay=1, tool_uses=(ToolUse("Bash", {"command": "ls"}),))


async def test_both_simulators_are_scripted_read_and_reset_over_http() -> None:
    async with running_simulator() as (_, plain), running_bedrock() as (_, bedrock):
        for url, path, model in (
            (plain, "/v1/messages", MODEL),
            (bedrock, "/anthropic/v1/messages", f"us.anthropic.{MODEL}"),
        ):
            async with httpx.AsyncClient(base_url=url, verify=False, headers={"authorization": "Bearer any"}) as client:
                queued = await client.post("/_sim/script", json=[{"text": "one"}, {"text": "two"}, {"text": "never"}])
                assert queued.json() == {"queued": 3}
                answers = [await client.post(path, json={**ASK, "model": model}) for _ in range(2)]
                assert [answer.json()["content"][0]["text"] for answer in answers] == ["one", "two"]
                assert [entry["kind"] for entry in (await client.get("/_sim/log")).json()] == ["messages"] * 2
                assert (await client.post("/_sim/reset")).status_code == 200
                assert (await client.get("/_sim/log")).json() == []
                assert "never" not in (await client.post(path, json={**ASK, "model": model})).text


@pytest.mark.parametrize(("provider", "path"), [("anthropic", "/v1/messages"), ("bedrock", "/anthropic/v1/messages")])
async def test_it_runs_as_a_process_with_a_log_file(tmp_path: Path, provider: str, path: str) -> None:
    log = tmp_path / "served.jsonl"
    reserved = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = reserved.sockets[0].getsockname()[1]
    reserved.close()
    await reserved.wait_closed()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon.simulator",
        "--port", str(port), "--log", str(log), "--provider", provider,
        env=dict(os.environ),
    )  # fmt: skip
    model = f"us.anthropic.{MODEL}" if provider == "bedrock" else MODEL
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client, asyncio.timeout(20):
            while True:
                try:
                    await client.get("/_sim/log")
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.02)
            headers = {"authorization": "Bearer any"}
            assert (await client.post(path, json={**ASK, "model": model}, headers=headers)).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()
    [entry] = [json.loads(line) for line in log.read_text().splitlines()]
    assert (entry["path"], entry["status"], entry["model"]) == (path, 200, MODEL)
