"""`proxyctl doctor` and `proxyctl top` against a real daemon, and without one."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.cli.test_cli import Shell, proxyctl
from tests.support.daemon import running_daemon
from tests.support.rows import put_circuit
from tests.support.terminal import on_a_terminal

NOWHERE = "http://127.0.0.1:9"
NAMES = ["configuration", "server", "token", "versions", "database", "prices", "models", "providers", "circuits", "ledger",
         "claude code"]  # fmt: skip


@contextmanager
def stub_server(answers: Mapping[str, object]) -> Iterator[str]:
    """A server that answers some paths with JSON, all others with an empty object."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers.get(self.path.partition("?")[0], {})).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


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


async def test_a_provider_that_did_not_answer_is_a_failure(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon, httpx.AsyncClient(base_url=daemon.url) as client:
        key = await daemon.create_key()
        shell = Shell(daemon.url, await daemon.admin_token())
        body = {"model": "claude-opus-5-5", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
        assert (await client.post(f"/ak/{key}/v1/messages", json=body)).status_code == 502
        await daemon.runtime.ledger.flush()
        done = await shell("doctor", "--deep", "alice/laptop", "-o", "json")
        found = {check["name"]: check for check in json.loads(done.out)["checks"]}
        assert (done.code, found["providers"]["status"]) == (1, "failed")
        assert found["providers"]["detail"] == "in the last hour 1 of 1 requests to plan failed"
        assert found["bedrock"]["status"] == "failed"  # it has no Bedrock key
        unknown = await shell("doctor", "--deep", "nobody/nothing", "-o", "json")
        found = {check["name"]: check for check in json.loads(unknown.out)["checks"]}
        assert found["bedrock"]["detail"] == "no user 'nobody'"


async def test_a_daemon_of_another_version_is_told_as_that() -> None:
    answers = {
        "/admin/auth/session": {"username": "admin", "expires_at": None},
        "/admin/system/status": {"version": "0"},
    }
    with stub_server(answers) as url:
        done = await proxyctl("doctor", "-o", "json", PROXY_SERVER=url, PROXY_ADMIN_TOKEN="t")
    found = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert (done.code, found["versions"]["status"]) == (1, "warning")
    assert "it is of another version" in found["database"]["detail"]


@pytest.mark.parametrize(
    ("variables", "name", "word"),
    [
        ({"PROXY_SERVER": NOWHERE, "PROXY_ADMIN_TOKEN": "t"}, "server", "refused the connection"),
        ({"PROXY_PROFILE": "nothing"}, "configuration", "no such profile"),
        ({"PROXY_PROFILE": "a/b", "ANTHROPIC_BASE_URL": NOWHERE}, "configuration", "profile 'a/b'"),
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
