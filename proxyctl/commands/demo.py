"""`proxyctl demo`: a daemon, simulated providers, a key, a streamed request and a failover, all on loopback."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.errors import CliError, UnreachableError, UsageError
from proxyctl.output import dollars

_START_SECONDS = 30.0


def register_commands(app: typer.Typer) -> None:
    @register(app, "demo", can_rehearse=False)
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

        Starts the daemon, a simulated Anthropic and a simulated Bedrock, makes a user and a key, streams one request,
        takes Anthropic down for the next one, and shows what both cost.
        """
        with (
            tempfile.TemporaryDirectory(prefix="proxyctl-demo-") as directory,
            _running(cli, Path(directory), port) as demo,
        ):
            key = _make_key(cli, demo)
            cli.tell("Asking the simulated model through the daemon:\n")
            _stream(demo.url, key)
            _show_usage(cli, demo, requests=1)
            cli.tell("\nAnthropic is overloaded now. The same question again:\n")
            _overload(demo.plan_url)
            _stream(demo.url, key)
            _show_usage(cli, demo, requests=2)
            if once:
                return
            cli.tell(
                "\nPoint Claude Code at it:\n"
                f"  export ANTHROPIC_BASE_URL={demo.url}\n"
                f"  export ANTHROPIC_AUTH_TOKEN={key}\n"
                "  claude -p 'hello'\n"
                "Look around as its admin:\n"
                f"  export PROXY_SERVER={demo.url} PROXY_ADMIN_TOKEN={demo.token}\n"
                "  proxyctl usage records      proxyctl models resolve claude-opus-5-5      proxyctl circuits list\n"
                "Or start a daemon of your own against the simulated providers:\n"
                f"  export PROXY_PLAN_API_URL={demo.plan_url} PROXY_PLAN_API_KEY=simulated\n"
                f"  export PROXY_BEDROCK_URL={demo.bedrock_url}      (any Bedrock API key that begins with ABSK)\n"
                "  proxyctl serve"
            )
            cli.tell("\nRunning until Ctrl-C.")
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
            cli.tell("\nStopping.")


@dataclass(frozen=True, slots=True)
class _Demo:
    """Where everything is, and the admin's session."""

    url: str
    plan_url: str
    bedrock_url: str
    token: str


@contextmanager
def _running(cli: Cli, directory: Path, port: int) -> Iterator[_Demo]:
    """Simulators and daemon as processes. All are gone afterwards."""
    from daemon.security.passwords import hash_password

    password = secrets.token_urlsafe(12)
    if port and not _is_free(port):
        raise UsageError(f"port {port} is taken", hint="another --port, or none to take a free one")
    plan_port, bedrock_port, daemon_port = _free_port(), _free_port(), port or _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROXY_")} | {
        "PROXY_DATA_DIR": str(directory / "data"),
        "PROXY_PLAN_API_URL": f"http://127.0.0.1:{plan_port}",
        "PROXY_PLAN_API_KEY": "simulated",
        "PROXY_BEDROCK_URL": f"http://127.0.0.1:{bedrock_port}",
        "PROXY_ADMIN_PASSWORD_HASH": hash_password(password),
        "PROXY_LOG_LEVEL": "warning",
    }
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # children start unblocked, see _start
    children = []
    try:
        cli.tell("Starting a simulated Anthropic, a simulated Bedrock and the daemon …")
        for provider, at in (("anthropic", plan_port), ("bedrock", bedrock_port)):
            simulator = [sys.executable, "-m", "daemon.simulator", "--provider", provider, "--port", str(at)]
            children.append(_start(simulator, environment))
        serve = [sys.executable, "-m", "proxyctl", "serve", "--port", str(daemon_port)]
        children.append(_start(serve, environment))
        for at in (plan_port, bedrock_port, daemon_port):
            _wait_ready(at, children)
        url = f"http://127.0.0.1:{daemon_port}"
        yield _Demo(url, f"http://127.0.0.1:{plan_port}", f"http://127.0.0.1:{bedrock_port}", _sign_in(url, password))
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


def _make_key(cli: Cli, demo: _Demo) -> str:
    client = cli.new_client(demo.token, server=demo.url)
    user = client.post("/admin/users", {"name": "demo"})
    key = client.post(f"/admin/users/{user['id']}/access-keys", {"name": "laptop"})
    bedrock = {"auth": "api_key", "api_key": f"ABSK{'demo' * 30}", "region": "us-east-1"}
    client.post(f"/admin/access-keys/{key['id']}/bedrock-key", bedrock)
    cli.tell(f"Created user demo, key laptop ({key['key_prefix']}) and its Bedrock key.")
    return str(key["access_key"])


def _sign_in(url: str, password: str) -> str:
    from proxyctl.client import AdminClient

    return str(AdminClient(url, None, timeout=30).login("admin", password)["access_token"])


def _overload(plan_url: str) -> None:
    """The simulated Anthropic refuses its next request."""
    from proxyctl.client import AdminClient

    step = {"status": 529, "error_type": "overloaded_error", "message": "Overloaded"}
    AdminClient(plan_url, None, timeout=30).raw("POST", "/_sim/script", json.dumps(step).encode())


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


def _show_usage(cli: Cli, demo: _Demo, *, requests: int) -> None:
    """The last request as it stands on the books."""
    client = cli.new_client(demo.token, server=demo.url)
    deadline = time.monotonic() + 5
    while len(items := client.get("/admin/usage/records")["items"]) < requests:
        if time.monotonic() > deadline:
            raise CliError("the request did not reach the ledger")
        time.sleep(0.05)
    record = items[0]
    reason = f" because the plan was {record['fallback_reason']}" if record["fallback_reason"] else ""
    cli.tell(
        f"\nOn the books: {record['model_served']} via {record['provider']}{reason}, "
        f"{record['input_tokens']} tokens in, {record['output_tokens']} out, "
        f"{dollars(record['cost_nano_usd'])}, {record['duration_ms']} ms ({record['request_id']})"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
