"""`proxyctl demo`: a daemon, a simulated provider, a key and one streamed request, all on loopback."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.errors import CliError, UnreachableError
from proxyctl.output import dollars

_START_SECONDS = 30.0


def register_commands(app: typer.Typer) -> None:
    @register(app, "demo")
    def demo(
        cli: Cli,
        once: Annotated[
            bool, typer.Option("--once", help="End after the request instead of waiting for Ctrl-C.")
        ] = False,
        port: Annotated[
            int, typer.Option("--port", min=0, max=65535, help="Port of the daemon; 0 takes a free one.")
        ] = 0,
    ) -> None:
        """See it work: nothing leaves this machine, nothing is kept.

        Starts the daemon and a simulated provider, makes a user and a key, streams one request and shows its cost.
        """
        with (
            tempfile.TemporaryDirectory(prefix="proxyctl-demo-") as directory,
            _running(cli, Path(directory), port) as (url, password),
        ):
            key = _make_key(cli, url, password)
            cli.tell("Asking the simulated model through the daemon:\n")
            _stream(url, key)
            _show_usage(cli, url, password)
            cli.tell(
                "\nPoint Claude Code at it:\n"
                f"  export ANTHROPIC_BASE_URL={url}/ak/{key}\n"
                "  export ANTHROPIC_AUTH_TOKEN=demo\n"
                "  claude -p 'hello'"
            )
            if not once:
                cli.tell("\nRunning until Ctrl-C.")
                signal.sigwait({signal.SIGINT, signal.SIGTERM})
                cli.tell("\nStopping.")


@contextmanager
def _running(cli: Cli, directory: Path, port: int) -> Iterator[tuple[str, str]]:
    """Simulator and daemon as processes; URL and admin password. Both are gone afterwards."""
    from daemon.security.passwords import hash_password

    password = secrets.token_urlsafe(12)
    plan_port, daemon_port = _free_port(), port or _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROXY_")} | {
        "PROXY_DATA_DIR": str(directory / "data"),
        "PROXY_PLAN_API_URL": f"http://127.0.0.1:{plan_port}",
        "PROXY_PLAN_API_KEY": "simulated",
        "PROXY_ADMIN_PASSWORD_HASH": hash_password(password),
        "PROXY_LOG_LEVEL": "warning",
    }
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # children start unblocked, see _start
    children = []
    try:
        cli.tell("Starting a simulated provider and the daemon …")
        children.append(_start([sys.executable, "-m", "daemon.simulator", "--port", str(plan_port)], environment))
        serve = [sys.executable, "-m", "proxyctl", "serve", "--port", str(daemon_port)]
        children.append(_start(serve, environment))
        _wait_ready(plan_port, children)
        _wait_ready(daemon_port, children)
        yield f"http://127.0.0.1:{daemon_port}", password
    finally:
        for child in reversed(children):
            child.terminate()
        for child in children:
            child.wait(10)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _start(command: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """A child in a session of its own: Ctrl-C is for us, and we end it."""
    unblock = [sys.executable, "-c", _UNBLOCK, *command]
    return subprocess.Popen(unblock, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)


_UNBLOCK = (
    "import os, signal, sys;signal.pthread_sigmask(signal.SIG_SETMASK, set());os.execv(sys.argv[1], sys.argv[1:])"
)


def _wait_ready(port: int, children: "list[subprocess.Popen[bytes]]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if any(child.poll() is not None for child in children):
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise UnreachableError(f"a process of the demo did not start on port {port}", hint="try: proxyctl serve")


def _make_key(cli: Cli, url: str, password: str) -> str:
    client = _signed_in(cli, url, password)
    user = client.post("/admin/users", {"name": "demo"})
    key = client.post(f"/admin/users/{user['id']}/access-keys", {"name": "laptop"})
    cli.tell(f"Created user demo and key laptop ({key['key_prefix']}).")
    return str(key["access_key"])


def _signed_in(cli: Cli, url: str, password: str):  # type: ignore[no-untyped-def]
    from proxyctl.client import AdminClient

    token = AdminClient(url, None, timeout=30).login("admin", password)["access_token"]
    return AdminClient(url, token, timeout=30)


def _stream(url: str, key: str) -> None:
    """Send one streaming request and print the text as it comes."""
    from proxyctl.client import stream_lines

    body = {
        "model": "claude-opus-5-5",
        "max_tokens": 200,
        "stream": True,
        "messages": [{"role": "user", "content": "Say hello to a new gateway."}],
    }
    for line in stream_lines(f"{url}/ak/{key}/v1/messages", body):
        if line.startswith("data: "):
            event = json.loads(line[6:])
            if event["type"] == "error":
                raise CliError(f"the daemon answered {event['error']['message']}")
            sys.stdout.write(event.get("delta", {}).get("text", ""))
            sys.stdout.flush()
    sys.stdout.write("\n")


def _show_usage(cli: Cli, url: str, password: str) -> None:
    """The request as it stands on the books."""
    client = _signed_in(cli, url, password)
    deadline = time.monotonic() + 5
    while not (items := client.get("/admin/usage/records")["items"]):
        if time.monotonic() > deadline:
            raise CliError("the request did not reach the ledger")
        time.sleep(0.05)
    record = items[0]
    cli.tell(
        f"\nOn the books: {record['model_served']} via {record['provider']}, {record['input_tokens']} tokens in, "
        f"{record['output_tokens']} out, {dollars(record['cost_nano_usd'])}, {record['duration_ms']} ms "
        f"({record['request_id']})"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
