"""The CLI against what goes wrong around it: odd tokens, a keyring that hangs, a server that is not the daemon."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from proxyctl import credentials
from proxyctl.credentials import KeyringUnavailable
from tests.cli.test_cli import proxyctl
from tests.support.daemon import running_daemon

USER = {"name": "alice", "team": None, "routing_strategy": "plan_first", "is_active": True, "created_at": "", "id": "1"}
ANSWERS = {
    "/many/admin/users": (200, {"items": [USER] * 20_000, "next_cursor": None}),
    "/stranger/admin/users": (200, {"hello": "world"}),
    "/other/admin/users": (422, {"error": "text, not an object"}),
    "/gone/admin/users": (404, {"error": {"type": "not_found", "message": "no user", "field": None}}),
}


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, document = ANSWERS[self.path.partition("?")[0]]
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def stub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("token", ["one-secret\ntwo-secret", "t\u00f6ken-secret", "two secret", " \n"])
async def test_a_token_that_cannot_be_sent_is_refused_and_not_quoted(token: str) -> None:
    done = await proxyctl("users", "list", PROXY_ADMIN_TOKEN=token)
    assert (done.code, done.out) == (2, "")
    assert "PROXY_ADMIN_TOKEN does not hold a token" in done.err
    assert "secret" not in done.err


async def test_a_keyring_that_hangs_does_not_hold_the_process(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(
        "import threading\n"
        "from keyring.backend import KeyringBackend\n"
        "class Ring(KeyringBackend):\n"
        "    priority = 1\n"
        "    def get_password(self, service, username): threading.Event().wait()\n"
        "    set_password = delete_password = get_password\n"
    )
    done = await proxyctl("users", "list", PYTHONPATH=str(tmp_path), PYTHON_KEYRING_BACKEND="hanging.Ring")
    assert (done.code, "not signed in" in done.err) == (4, True)


def test_whatever_a_keyring_raises_means_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> str:
        raise OSError("the bus went away")

    with pytest.raises(KeyringUnavailable, match=r"no usable keyring \(OSError\)"):
        credentials._with_keyring(broken)


async def test_a_reader_that_has_seen_enough_is_no_failure(stub: str) -> None:
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'proxyctl', 'users', 'list'], stdout=subprocess.PIPE,"
        " stderr=subprocess.PIPE)\n"
        "assert child.stdout.readline().startswith(b'alice')\n"
        "child.stdout.close()\n"
        "assert (child.wait(), child.stderr.read()) == (0, b''), child.returncode\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PROXY_SERVER": f"{stub}/many", "PROXY_ADMIN_TOKEN": "t"},
    )  # fmt: skip
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize(("place", "missing"), [("stranger", "a list"), ("other", "a reason")])
async def test_a_server_that_is_not_the_daemon_is_named_as_such(stub: str, place: str, missing: str) -> None:
    done = await proxyctl("users", "list", PROXY_SERVER=f"{stub}/{place}", PROXY_ADMIN_TOKEN="t")
    assert (done.code, f"without {missing}: is it a proxyctl daemon?" in done.err) == (1, True)


async def test_the_variable_asks_for_json_errors_and_an_option_comes_before_it(stub: str) -> None:
    variables = {"PROXY_SERVER": f"{stub}/gone", "PROXY_ADMIN_TOKEN": "t", "PROXY_OUTPUT": "json"}
    done = await proxyctl("users", "list", **variables)
    assert (done.code, json.loads(done.err)["error"]["type"]) == (3, "not_found")
    assert (await proxyctl("users", "list", "-o", "csv", **variables)).err == "error: no user\n"


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf"])
async def test_a_timeout_that_is_none_is_refused(seconds: str) -> None:
    done = await proxyctl("users", "list", "--timeout", seconds, PROXY_ADMIN_TOKEN="t")
    assert (done.code, "expected seconds" in done.err) == (2, True)


async def test_a_missing_certificate_file_is_named() -> None:
    done = await proxyctl("users", "list", PROXY_ADMIN_TOKEN="t", PROXY_CA_BUNDLE="/nonexistent.pem")
    assert (done.code, "PROXY_CA_BUNDLE: /nonexistent.pem is not a file" in done.err) == (2, True)


async def test_no_key_is_made_that_could_not_be_kept(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "key"
    done = await proxyctl(
        "keys", "create", "alice", "--output-file", str(file), PROXY_ADMIN_TOKEN="t", PROXY_SERVER="http://127.0.0.1:9"
    )
    assert (done.code, "nothing was created" in done.err) == (1, True)


async def test_a_full_disk_is_no_bug_and_a_key_that_is_lost_by_it_is_told(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, "http://127.0.0.1:9") as daemon:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PROXY_SERVER": daemon.url}
        environment["PROXY_ADMIN_TOKEN"] = await daemon.admin_token()

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "proxyctl", *arguments]
            with Path("/dev/full").open("w") as full:
                return subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)

        assert (await asyncio.to_thread(run, "users", "create", "alice")).returncode == 0
        listed = await asyncio.to_thread(run, "users", "list")
        assert (listed.returncode, listed.stderr) == (
            1,
            "error: the output cannot be written: No space left on device\n",
        )
        created = await asyncio.to_thread(run, "keys", "create", "alice", "--name", "laptop")
        assert created.returncode == 1
        assert "the key exists, but could not be printed" in created.stderr
        assert "proxyctl keys rotate" in created.stderr
