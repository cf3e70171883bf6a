"""Sessions that were served by both providers, and what stands in their prompts for one of them only."""

from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.script import Step
from tests.gateway.test_failover import PLAN_FAILURES, rig
from tests.support.daemon import BEDROCK_API_KEY

REFUSED = "messages.1.content.0: Invalid `signature` in `thinking` block"
SESSION = {"x-claude-code-session-id": "0b6a1d1e-session"}


def refusal() -> Step:
    return Step(status=400, error_type="invalid_request_error", message=REFUSED)


async def test_thinking_of_a_turn_at_bedrock_that_moved_no_session_is_left_out_at_the_plan(tmp_path: Path) -> None:
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        running.plan.script(PLAN_FAILURES["a limit of the tier"][1])
        assert (await running.ask(key, headers=SESSION)).provider == "bedrock"
        thought = {"type": "thinking", "thinking": "Hm.", "signature": "of-bedrock"}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [thought, {"type": "text", "text": "Hello."}]},
            {"role": "user", "content": "go on"},
        ]
        running.plan.script(refusal())
        got = await running.ask(key, headers=SESSION, messages=messages)
        assert (got.answer.status_code, got.provider) == (200, "plan")
        assert (await running.ask(key, headers=SESSION, messages=messages)).provider == "plan"
        first, refused, repaired, later = running.plan.log
    assert [entry["status"] for entry in (first, refused, repaired, later)] == [429, 400, 200, 200]
    assert repaired["body_sha256"] == later["body_sha256"] != refused["body_sha256"]


async def test_a_key_without_bedrock_gets_a_refused_signature_in_anthropics_words(tmp_path: Path) -> None:
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key()
        running.plan.script(refusal())
        got = await running.ask(key, headers=SESSION)
        assert (got.answer.status_code, len(running.plan.log)) == (400, 1)
    assert got.answer.json()["error"]["message"] == REFUSED


@pytest.mark.parametrize("model", ["claude-opus-5-5", "claude-sonnet-4-5"])
async def test_bedrock_does_not_get_the_block_that_says_who_pays(tmp_path: Path, model: str) -> None:
    prompt = {"type": "text", "text": "You are " + "an agent. " * 500, "cache_control": {"type": "ephemeral"}}
    async with rig(tmp_path) as running:
        key = await running.daemon.create_key(strategy="bedrock_only", bedrock=BEDROCK_API_KEY)
        for number in range(2):
            paid = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cch=0000{number};"}
            assert (await running.ask(key, model=model, system=[paid, prompt])).answer.status_code == 200
            assert (await running.ask(key, model=model, system=[paid])).answer.status_code == 200
        first, alone, second, _ = running.bedrock.log
    assert "system" not in alone["body"]
    assert first["usage"]["cache_creation_input_tokens"] == second["usage"]["cache_read_input_tokens"] > 1000
