"""Claude Code works on Bedrock alone: whatever it sends, the session finishes and no error of Bedrock ever shows."""

from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.rules import REFUSED_BETAS
from tests.e2e.client import in_full
from tests.e2e.stage import FIRST_PARTY, ONE_HOUR_CACHE, SECRET_LINE, Stage, WatchfulBedrock, stage
from tests.support.daemon import BEDROCK_API_KEY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

# A model, the route its requests take, and the route that the key asks for.
ROUTES = {
    "opus on the messages route": ("claude-opus-5-5", "messages", "auto"),
    "opus, invoked": ("claude-opus-5-5", "invoke", "invoke"),
    "sonnet 4.5, invoked": ("claude-sonnet-4-5", "invoke", "auto"),
    "sonnet 5.5 on the messages route": ("claude-sonnet-5-5", "messages", "auto"),
    "sonnet 4.6, invoked": ("claude-sonnet-4-6", "invoke", "auto"),
    "haiku 4.5, invoked": ("claude-haiku-4-5", "invoke", "auto"),
    "fable on the messages route": ("claude-fable-5-1", "messages", "auto"),
}
MAIN_ROUTES = tuple(ROUTES)[:3]
MODES = {
    "plainly": {},
    "with an hour's cache": ONE_HOUR_CACHE,
    "as if to Anthropic": FIRST_PARTY,
    "as if to Anthropic, with an hour's cache": FIRST_PARTY | ONE_HOUR_CACHE,
}
FULL = [(route, mode) for route in ROUTES for mode in MODES if route in MAIN_ROUTES or mode == tuple(MODES)[-1]]
SHORT = [(MAIN_ROUTES[0], "plainly"), *((route, tuple(MODES)[-1]) for route in MAIN_ROUTES)]


async def bedrock_key(running: Stage, route: str = "auto") -> str:
    return await running.daemon.create_key(strategy="bedrock_only", bedrock=BEDROCK_API_KEY | {"route": route})


def blocks(running: Stage, kind: str) -> list[dict[str, Any]]:
    """The blocks of a kind, at any depth, in the last request that Bedrock accepted."""
    found: list[dict[str, Any]] = []
    places: list[Any] = [running.bedrock.bodies[-1]["messages"]]
    while places:
        place = places.pop()
        if isinstance(place, list):
            places.extend(place)
        elif isinstance(place, dict):
            found += [place] if place.get("type") == kind else []
            places.append(place.get("content"))
    return found


@pytest.mark.parametrize(("name", "mode"), in_full(FULL, SHORT))
async def test_a_tool_loop_with_thinking_and_the_prompt_cache_works_on_every_route(
    tmp_path: Path, name: str, mode: str
) -> None:
    model, route, wanted = ROUTES[name]
    async with stage(tmp_path) as running:
        key = await bedrock_key(running, wanted)
        session = await running.work(key, "[[tool-loop]]", arguments=["--model", model], **MODES[mode])
        rows = await running.books()
    assert session.finished_well()
    assert running.commands_run == ["proxyctl-was-here"]
    assert SECRET_LINE in session.tool_results
    assert running.plan.log == []
    assert running.bedrock.refusals == 0
    assert [[attempt["route"] for attempt in row["attempts"]] for row in rows] == [[route]] * 3
    assert len(blocks(running, "thinking")) == 2
    body = running.bedrock.bodies[-1]
    assert body["thinking"]["type"] in ("adaptive", "enabled")
    assert body["context_management"]["edits"]
    # What one turn leaves in the cache the next one finds there.
    written = "cache_write_1h_tokens" if "hour" in mode else "cache_write_5m_tokens"
    other = "cache_write_5m_tokens" if "hour" in mode else "cache_write_1h_tokens"
    first, second, third = rows
    assert first[written] > 1000
    assert second["cache_read_tokens"] == first[written]
    assert third["cache_read_tokens"] == first[written] + second[written]
    assert {row[other] for row in rows} == {0}


@pytest.mark.parametrize("name", MAIN_ROUTES)
async def test_tools_of_one_answer_run_once_each(tmp_path: Path, name: str) -> None:
    model, _, wanted = ROUTES[name]
    async with stage(tmp_path) as running:
        key = await bedrock_key(running, wanted)
        session = await running.work(key, "[[parallel-tools]]", arguments=["--model", model])
        await running.books()
    assert session.finished_well()
    assert sorted(running.commands_run) == ["parallel-one", "parallel-two"]
    assert len(blocks(running, "tool_result")) == 2


@pytest.mark.parametrize("name", in_full(MAIN_ROUTES, ("sonnet 4.5, invoked",)))
@pytest.mark.parametrize(
    ("file", "kind", "media"), [("picture.png", "image", "image/png"), ("pages.pdf", "document", "application/pdf")]
)
async def test_a_picture_and_a_pdf_that_claude_code_reads_reach_bedrock(
    tmp_path: Path, name: str, file: str, kind: str, media: str
) -> None:
    model, _, wanted = ROUTES[name]
    async with stage(tmp_path) as running:
        key = await bedrock_key(running, wanted)
        session = await running.work(key, "[[tool-loop]]", file=file, arguments=["--model", model])
        await running.books()
    assert session.finished_well()
    [block] = blocks(running, kind)
    assert block["source"]["media_type"] == media
    assert len(block["source"]["data"]) > 50


@pytest.mark.parametrize(
    ("asked", "got"), in_full([("low", "low"), ("high", "high"), ("max", "max")], [("max", "max")])
)
async def test_the_effort_that_was_asked_for_reaches_bedrock(tmp_path: Path, asked: str, got: str) -> None:
    async with stage(tmp_path) as running:
        key = await bedrock_key(running)
        session = await running.work(key, "hello", arguments=["--model", "claude-opus-5-5", "--effort", asked])
        await running.books()
    assert session.finished_well()
    assert running.bedrock.bodies[-1]["output_config"] == {"effort": got}


@pytest.mark.parametrize("name", MAIN_ROUTES)
async def test_betas_that_bedrock_has_come_to_refuse_cost_one_refusal_and_none_in_the_next_session(
    tmp_path: Path, name: str
) -> None:
    model, _, wanted = ROUTES[name]
    refused = ("tool-provenance-*", "thinking-token-count-*", "context-management-*", "tool-search-tool-*")
    bedrock = WatchfulBedrock(refused_betas=(*REFUSED_BETAS, *refused))
    async with stage(tmp_path, bedrock=bedrock) as running:
        key = await bedrock_key(running, wanted)
        first = await running.work(key, "[[tool-loop]]", arguments=["--model", model], **FIRST_PARTY)
        taught = running.bedrock.refusals
        second = await running.work(key, "[[tool-loop]]", arguments=["--model", model], **FIRST_PARTY)
        await running.books()
        rules = await running.learned()
    assert first.finished_well()
    assert second.finished_well()
    assert 1 <= taught <= len(rules)
    assert running.bedrock.refusals == taught
    assert running.commands_run == ["proxyctl-was-here"] * 2
