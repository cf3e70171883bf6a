"""`proxyctl doctor` and `proxyctl top` against a real daemon, and without one."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.cli.test_cli import Shell, proxyctl
from tests.support.daemon import running_daemon
from tests.support.rows import put_circuit
from tests.support.terminal import on_a_terminal

NOWHERE = "http://127.0.0.1:9"
NAMES = ["configuration", "server", "token", "versions", "database", "prices", "models", "plan", "circuits", "ledger",
         "claude code"]  # fmt: skip


async def test_a_healthy_daemon_has_nothing_to_mend(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        shell = Shell(daemon.url, await daemon.admin_token())
        done = await shell("doctor", "-o", "json")
        found = {check["name"]: check for check in json.loads(done.out)["checks"]}
        assert (done.code, list(found)) == (0, NAMES), done.out
        assert set(found["server"]) == {"name", "status", "detail", "fix"}
        assert {check["status"] for check in found.values()} <= {"ok", "skipped"}, found
        assert shell.token not in done.out

        await shell("users", "create", "alice")
        key = json.loads((await shell("keys", "create", "alice", "--name", "laptop", "-o", "json")).out)
        await put_circuit(daemon, key["id"])
        token = (await shell("tokens", "create", "ci", "--scope", "system:read", "--expires", "1d", "-q")).out.strip()
        few = await shell("doctor", "-o", "json", PROXY_ADMIN_TOKEN=token, ANTHROPIC_BASE_URL=f"{daemon.url}/v1")
        found = {check["name"]: check for check in json.loads(few.out)["checks"]}
        assert (few.code, found["claude code"]["status"]) == (1, "failed")
        assert (found["circuits"]["status"], "circuits:read" in found["circuits"]["detail"]) == ("skipped", True)
        listed = await shell("doctor")
        assert "1 open: plan (overloaded)" in listed.out


@pytest.mark.parametrize(
    ("variables", "name", "word"),
    [
        ({"PROXY_SERVER": NOWHERE, "PROXY_ADMIN_TOKEN": "t"}, "server", "refused the connection"),
        ({"PROXY_PROFILE": "nothing"}, "configuration", "no such profile"),
    ],
)
async def test_what_is_wrong_is_found_without_a_daemon(variables: dict[str, str], name: str, word: str) -> None:
    done = await proxyctl("doctor", "-o", "json", **variables)
    found = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert (done.code, found[name]["status"], word in found[name]["detail"]) == (1, "failed", True), done.out
    assert found[name]["fix"]
    assert {found[other]["status"] for other in NAMES[3:10]} == {"skipped"}


async def test_top_is_one_frame_without_a_terminal(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        shell = Shell(daemon.url, await daemon.admin_token())
        piped = await shell("top")
        assert (piped.code, piped.out.splitlines()[0]) == (0, "requests per minute\t0.0")
        stats = json.loads((await shell("top", "-o", "json", "--minutes", "1")).out)
        assert {"requests_in_flight", "requests_per_minute", "by_user", "by_model", "by_provider"} <= set(stats)
        signed_in = {"PROXY_SERVER": shell.url, "PROXY_ADMIN_TOKEN": shell.token, "COLUMNS": "60"}
        code, screen = await asyncio.to_thread(on_a_terminal, "top", typed=[(b"in flight", b"q")], **signed_in)
        assert (code, "requests per minute" in screen) == (0, True), screen
        assert "\x1b[?1049l" in screen  # the screen before is back
