"""The admin token in a real Secret Service: gnome-keyring on a message bus of its own."""

import asyncio
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import ADMIN_PASSWORD, running_daemon

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

LOGIN = "P auth login --password-file -"
UNLOCK = "printf pw | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1"


async def on_a_bus(home: Path, url: str, lines: list[str]) -> subprocess.CompletedProcess[str]:
    """Run lines of shell in a session with a message bus; `P` is proxyctl, the password is on its standard input."""
    runtime = home / "run"
    runtime.mkdir(parents=True, mode=0o700)
    password = shlex.quote(ADMIN_PASSWORD)
    script = [f'P() {{ printf %s {password} | {shlex.quote(sys.executable)} -m proxyctl "$@"; }}', *lines]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(runtime),
        "PROXY_SERVER": url,
    }
    command = ["dbus-run-session", "--", "bash", "-c", "\n".join(script)]
    return await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def _holds(home: Path, text: str) -> list[Path]:
    return [file for file in home.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


async def test_the_keyring_keeps_the_token_until_logout(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with running_daemon(tmp_path, "http://127.0.0.1:9") as daemon:
        done = await on_a_bus(home, daemon.url, [
            UNLOCK, LOGIN, "P auth status --query source", "P auth token", "P auth logout", "P auth token; echo $?",
        ])  # fmt: skip
    source, token, code = done.stdout.split()
    assert (source, code) == ('"keyring"', "4"), done.stderr
    assert len(token) > 20
    assert _holds(home, token) == []
    assert "Signed out" in done.stderr


@pytest.mark.parametrize("keyring", ["none", "locked"])
async def test_without_a_usable_keyring_the_message_says_what_to_do_and_nothing_is_written(
    tmp_path: Path, keyring: str
) -> None:
    home = tmp_path / "home"
    locked = "gnome-keyring-daemon --start --components=secrets >/dev/null 2>&1"
    start = {"none": "unset DBUS_SESSION_BUS_ADDRESS", "locked": locked}[keyring]
    async with running_daemon(tmp_path, "http://127.0.0.1:9") as daemon:
        done = await on_a_bus(home, daemon.url, [start, LOGIN, "echo $?"])
    assert done.stdout == "4\n", done.stderr
    assert "the token was not stored" in done.stderr
    assert "PROXY_ADMIN_TOKEN" in done.stderr
    assert [file for file in home.rglob("*") if file.name.startswith("credentials")] == []
