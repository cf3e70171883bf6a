"""The real Claude Code in a home of its own, and what came of a session."""

import asyncio
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from daemon.simulator.base import Simulator

CLAUDE = Path(__file__).parent / "node_modules" / ".bin" / "claude"

Case = TypeVar("Case")


def in_full(cases: Iterable[Case], quick: Iterable[Case]) -> list[Case]:
    """All cases, or the few that a quick run (E2E_QUICK) has time for."""
    return list(quick if os.environ.get("E2E_QUICK") else cases)


@dataclass
class Session:
    """What a session printed, one JSON object a line."""

    events: list[dict[str, Any]]

    @property
    def result(self) -> dict[str, Any]:
        [result] = [event for event in self.events if event["type"] == "result"]
        return result

    @property
    def tool_results(self) -> str:
        """All that tools answered, as one text to search in."""
        return json.dumps([event for event in self.events if event["type"] == "user"])

    def finished_well(self) -> bool:
        """Whether it ended in success and never showed an error on its way."""
        errors = [event for event in self.events if event.get("subtype") == "api_retry" or event.get("error")]
        assert errors == []
        return (self.result["subtype"], self.result["is_error"]) == ("success", False)


async def run_claude(home: Path, prompt: str, *, arguments: Sequence[str] = (), **variables: str) -> Session:
    """Run `claude -p` without non-essential traffic; a second run in the same home goes on where it was."""
    session, code, said = await claude_ended(home, prompt, arguments, variables)
    assert code == 0, said
    return session


async def claude_ended(
    home: Path, prompt: str, arguments: Sequence[str], variables: Mapping[str, str]
) -> tuple[Session, int | None, bytes]:
    """`run_claude`, however it ends: with its exit code, and the end of what it said."""
    work = home / "work"
    work.mkdir(parents=True, exist_ok=True)
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
        "--allowedTools", "Bash", "Read", *arguments,
        cwd=work, env=environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(120):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    session = Session([json.loads(line) for line in out.splitlines() if line.startswith(b"{")])
    return session, process.returncode, out[-2000:] + err[-2000:]


def bearer(url: str, key: str) -> dict[str, str]:
    """The variables of a client whose only credential is an access key."""
    return {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": key}


def assert_books_equal_logs(rows: Sequence[dict[str, Any]], **simulators: Simulator) -> None:
    """Every whole answer a provider sent is in the ledger once, under its id, with every token; no try is missing."""
    by_id = {row["upstream_request_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    sent = {
        entry["request_id"]: (provider, entry)
        for provider, simulator in simulators.items()
        for entry in simulator.log
        if entry["ended"] == "finished" and entry["status"] == 200
    }
    assert by_id.keys() == sent.keys()
    for request_id, (provider, entry) in sent.items():
        row, usage = by_id[request_id], entry["usage_sent"]
        assert (row["provider"], row["status"], row["ended"], row["estimated"]) == (provider, 200, "finished", False)
        assert row["is_stream"] == entry["stream"]
        assert row["input_tokens"] == usage["input_tokens"]
        assert row["output_tokens"] == usage["output_tokens"]
        assert row["cache_read_tokens"] == usage["cache_read_input_tokens"]
        assert row["cache_write_5m_tokens"] == usage["cache_creation"]["ephemeral_5m_input_tokens"]
        assert row["cache_write_1h_tokens"] == usage["cache_creation"]["ephemeral_1h_input_tokens"]
        assert row["cost_nano_usd"] > 0
        assert row["session_id"]
    for provider, simulator in simulators.items():
        tries = [
            attempt
            for row in rows
            for attempt in row["attempts"]
            if attempt["provider"] == provider and attempt["failure"] not in ("circuit_open", "connect")
        ]
        assert len(tries) == len(simulator.log)
