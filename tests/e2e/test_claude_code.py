"""The real Claude Code, through the daemon, against the simulated provider: a tool loop, and every token on the books."""

from pathlib import Path

import pytest

from tests.cli.test_cli import proxyctl
from tests.e2e.client import assert_books_equal_logs, run_claude
from tests.support.daemon import running_daemon
from tests.support.simulator import running_simulator

SECRET_LINE = "the file was read"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.mark.parametrize("place", ["path", "header", "bearer", "helper"])
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
            "helper": {},
        }[place]
        if place == "helper":
            setup = ("claude", "setup", "--key-file", "-", "--api-key-helper", "--insecure-storage")
            done = await proxyctl(*setup, stdin=key, HOME=str(tmp_path / "home"), PROXY_SERVER=daemon.url)
            assert done.code == 0, done.err
        session = await run_claude(tmp_path / "home", f"[[tool-loop]] [[file:{file}]]", **variables)
        rows = await daemon.records()

    assert session.finished_well()
    assert "proxyctl-was-here" in session.tool_results
    assert SECRET_LINE in session.tool_results
    assert "The tool loop is done." in session.result["result"]

    served = [entry for entry in simulator.log if entry["status"] == 200]
    assert [use for entry in served for use in entry["tool_uses"]] == ["Bash", "Read"]
    assert_books_equal_logs(rows, plan=simulator)
    assert [row["model_served"] for row in rows] == [entry["model"] for entry in served]
    assert len({row["session_id"] for row in rows}) == 1
    assert all(entry["stream"] for entry in served)
    assert all("x-proxy-key" not in entry["headers"] for entry in served)
