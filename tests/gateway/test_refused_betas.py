"""Betas that Bedrock refuses without naming them, although other requests have shown that it takes them."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.simulator.bedrock import BedrockSimulator
from daemon.simulator.rules import REFUSED_BETAS
from tests.gateway.test_failover import Rig
from tests.support.daemon import BEDROCK_API_KEY, running_daemon
from tests.support.simulator import running_bedrock, running_simulator

BETAS = "interleaved-thinking-2025-05-14,context-management-2025-06-27,thinking-token-count-2026-05-13"


@pytest.mark.parametrize("refused", ["thinking-token-count-*", "context-management-*", "fine-grained-tool-streaming-*"])
async def test_when_leaving_out_the_unknown_betas_was_not_enough_none_goes_out(tmp_path: Path, refused: str) -> None:
    fields: dict[str, Any] = {
        "model": "claude-sonnet-4-5",
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "tools": [{"name": "Bash", "input_schema": {"type": "object"}, "eager_input_streaming": True}],
    }
    async with (
        running_simulator() as (plan, plan_url),
        running_bedrock(BedrockSimulator(refused_betas=(*REFUSED_BETAS, refused))) as (bedrock, bedrock_url),
        running_daemon(tmp_path, plan_url, PROXY_BEDROCK_URL=bedrock_url) as daemon,
        httpx.AsyncClient(base_url=daemon.url, timeout=20) as client,
    ):
        running = Rig(daemon, plan, bedrock, client)
        key = await daemon.create_key(strategy="bedrock_only", bedrock=BEDROCK_API_KEY)
        for _ in range(2):
            got = await running.ask(key, headers={"anthropic-beta": BETAS}, **fields)
            assert got.answer.status_code == 200, got.answer.text
            assert got.kinds[-1] == "message_stop"
        rows = await daemon.records()
    assert [entry["status"] for entry in bedrock.log] == [400, 400, 200, 200]
    assert bedrock.log[-1]["betas"] == []
    assert "context_management" not in bedrock.log[-1]["body"]
    assert [attempt["failure"] for attempt in rows[0]["attempts"]] == ["unsupported", "unsupported", None]
