"""The real Claude Code, through the daemon, against the simulated provider: a tool loop, and every token on the books."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from daemon.store import usage
from daemon.store.engine import Store
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.simulator import running_simulator

CLAUDE = Path(__file__).parent / "node_modules" / ".bin" / "claude"
SECRET_LINE = "the file was read"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


async def run_claude(home: Path, prompt: str, **variables: str) -> list[dict[str, Any]]:
    """Run `claude -p` in a home of its own, without non-essential traffic; its output, one JSON a line."""
    home.mkdir()
    work = home / "work"
    work.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TERM": "dumb",
        "IS_SANDBOX": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "NO_PROXY": "127.0.0.1",
        **variables,
    }
    process = await asyncio.create_subprocess_exec(
        str(CLAUDE), "-p", prompt, "--output-format", "stream-json", "--verbose",
        "--allowedTools", "Bash(echo *)", "Read",
        cwd=work, env=environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode == 0, (out[-2000:], err[-2000:])
    return [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]


async def ledger(daemon: RunningDaemon) -> list[Any]:
    await daemon.runtime.ledger.flush()
    store = Store.open(f"sqlite+aiosqlite:///{daemon.settings.data_dir}/proxyctl.db")
    async with store.read() as connection:
        rows = await usage.records(connection, limit=1000)
    await store.aclose()
    return rows[::-1]


@pytest.mark.parametrize("place", ["path", "header", "bearer"])
async def test_claude_code_works_a_tool_loop_and_every_token_is_on_the_books(tmp_path: Path, place: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_text(SECRET_LINE + "\n")
    async with running_simulator() as (simulator, plan), running_daemon(tmp_path, plan) as daemon:
        key = await daemon.create_key()
        variables = {
            "path": {"ANTHROPIC_BASE_URL": f"{daemon.url}/ak/{key}", "ANTHROPIC_AUTH_TOKEN": "the-users-own-login"},
            "header": {
                "ANTHROPIC_BASE_URL": daemon.url,
                "ANTHROPIC_AUTH_TOKEN": "the-users-own-login",
                "ANTHROPIC_CUSTOM_HEADERS": f"x-proxy-key: {key}",
            },
            "bearer": {"ANTHROPIC_BASE_URL": daemon.url, "ANTHROPIC_AUTH_TOKEN": key},
        }[place]
        events = await run_claude(tmp_path / "home", f"[[tool-loop]] [[file:{file}]]", **variables)
        rows = await ledger(daemon)

    results = json.dumps([event for event in events if event["type"] == "user"])
    assert "proxyctl-was-here" in results
    assert SECRET_LINE in results
    [result] = [event for event in events if event["type"] == "result"]
    assert (result["subtype"], result["is_error"]) == ("success", False)
    assert "The tool loop is done." in result["result"]

    served = [entry for entry in simulator.log if entry["status"] == 200]
    assert len(served) >= 3
    assert [use for entry in served for use in entry["tool_uses"]] == ["Bash", "Read"]
    assert len(rows) == len(served)
    for row, entry in zip(rows, served, strict=True):
        assert row["upstream_request_id"] == entry["request_id"]
        assert (row["model_served"], row["is_stream"], row["ended"]) == (entry["model"], entry["stream"], "finished")
        assert not row["estimated"]
        assert row["input_tokens"] == entry["usage"]["input_tokens"]
        assert row["output_tokens"] == entry["usage"]["output_tokens"]
        assert row["cost_nano_usd"] > 0
        assert row["session_id"]
    assert len({row["session_id"] for row in rows}) == 1
    assert all(entry["stream"] for entry in served)
    assert all("x-proxy-key" not in entry["headers"] for entry in served)
