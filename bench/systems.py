"""The systems under test, each in front of the same upstream: nobody (direct), nginx if it is installed, the daemon."""

import asyncio
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from json import dumps, loads
from pathlib import Path

PASSWORD = "bench"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CORES = sorted(os.sched_getaffinity(0))


@dataclass
class System:
    """Where a system listens, and the processes it is made of."""

    name: str
    port: int
    path: str
    pid: int | None
    start_seconds: float = 0.0
    model: str = "claude-opus-5-5"

    def cpu_seconds(self) -> float:
        """User and system time of the process tree."""
        return sum(sum(_stat(pid)[11:13]) for pid in self._tree()) / _TICKS

    def resident_bytes(self) -> int:
        return sum(_stat(pid)[21] for pid in self._tree()) * _PAGE

    def _tree(self) -> list[int]:
        if self.pid is None:
            return []
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *(int(child) for child in children)]


def _stat(pid: int) -> list[int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) if field.lstrip("-").isdigit() else 0 for field in fields]


def _install_nginx() -> None:
    """nginx from the distribution, where this user may install it."""
    if shutil.which("nginx") or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    for command in (["update"], ["install", "-y", "--no-install-recommends", "nginx-light"]):
        subprocess.run(["apt-get", "-qq", *command], check=False, stdout=sys.stderr, timeout=180)


def _pinned(command: list[str]) -> list[str]:
    """The command on the first core alone, where there are two and taskset is here."""
    return ["taskset", "-c", str(_CORES[0]), *command] if len(_CORES) > 1 and shutil.which("taskset") else command


@asynccontextmanager
async def running_systems(directory: Path, *, events: int, interval_ms: int) -> AsyncIterator[list[System]]:
    """Upstream and systems; all are ended afterwards."""
    if not shutil.which("cc"):
        raise SystemExit("the bench compiles its upstream and needs a C compiler: apt-get install gcc libc6-dev")
    _install_nginx()
    if len(_CORES) > 1:
        # Load and upstream stay off the core that the system under test is pinned to.
        os.sched_setaffinity(0, _CORES[1:])
    upstream = _free_port()
    responder = directory / "responder"
    source = Path(__file__).parent / "responder.c"
    subprocess.run(["cc", "-O2", "-o", responder, source], check=True)
    async with AsyncExitStack() as stack:
        command = [str(responder), str(upstream), str(events), str(interval_ms), str(_frames(directory))]
        stack.enter_context(_process(command, upstream))
        systems = [System("direct", upstream, "/v1/messages", None)]
        if shutil.which("nginx"):
            systems.append(_nginx(stack, directory, upstream))
        else:
            sys.stderr.write("nginx is not installed and left out: apt-get install nginx-light\n")
        systems += _daemon(stack, directory, upstream)
        await asyncio.sleep(0.2)
        yield systems


def _nginx(stack: AsyncExitStack, directory: Path, upstream: int) -> System:
    port = _free_port()
    config = directory / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; client_max_body_size 32m; client_body_buffer_size 1m;\n"
        f" client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;\n"
        f" fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;\n"
        f" upstream up {{ server 127.0.0.1:{upstream}; keepalive 600; }}\n"
        f" server {{ listen 127.0.0.1:{port} backlog=4096; keepalive_requests 1000000; location / {{\n"
        '  proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;\n'
        " } } }\n"
    )
    child = _process(_pinned(["nginx", "-c", str(config), "-p", str(directory)]), port)
    pid = stack.enter_context(child)
    return System("nginx", port, "/v1/messages", pid, child.start_seconds)


def _frames(directory: Path) -> Path:
    """The responder's events as Bedrock's frames, in files."""
    from daemon.simulator.eventstream import chunk

    model = "claude-sonnet-4-5-20250929"
    usage = {"input_tokens": 10, "output_tokens": 1}
    start = {"type": "message_start", "message": {"id": "msg_bench", "model": model, "usage": usage}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "twelve bytes"}}
    ends = ({"type": "message_delta", "usage": {"output_tokens": 20}}, {"type": "message_stop"})
    folder = directory / "frames"
    folder.mkdir()
    for name, events in (("start", [start]), ("delta", [delta]), ("stop", ends)):
        (folder / name).write_bytes(b"".join(chunk(dumps(event, separators=(",", ":")).encode()) for event in events))
    return folder


def _daemon(stack: AsyncExitStack, directory: Path, upstream: int) -> list[System]:
    """One daemon, by three ways through it: the plan, and Bedrock by both of its wires."""
    port = _free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PROXY_DATA_DIR": str(directory / "data"),
        "PROXY_PLAN_API_URL": f"http://127.0.0.1:{upstream}",
        "PROXY_PLAN_API_KEY": "bench",
        "PROXY_BEDROCK_URL": f"http://127.0.0.1:{upstream}",
        "PROXY_ADMIN_PASSWORD_HASH": hashlib.sha256(PASSWORD.encode()).hexdigest(),
        "PROXY_LOG_LEVEL": "error",
    }
    command = [sys.executable, "-m", "proxyctl", "serve", "--port", str(port)]
    child = _process(_pinned(command), port, environment)
    pid = stack.enter_context(child)
    base = f"http://127.0.0.1:{port}"
    basic = b64encode(f"admin:{PASSWORD}".encode()).decode()
    token = _call(f"{base}/admin/auth/login", {"authorization": f"Basic {basic}"})["access_token"]
    bearer = {"authorization": f"Bearer {token}"}

    def path(name: str, strategy: str) -> str:
        user = _call(f"{base}/admin/users", bearer, {"name": name, "routing_strategy": strategy})
        key = _call(f"{base}/admin/users/{user['id']}/access-keys", bearer, {"name": "bench"})
        if strategy == "bedrock_only":
            body = {"auth": "api_key", "api_key": f"ABSK{'bench' * 25}", "region": "us-east-1"}
            _call(f"{base}/admin/access-keys/{key['id']}/bedrock-key", bearer, body)
        return f"/ak/{key['access_key']}/v1/messages"

    started = child.start_seconds
    bedrock = path("bedrock", "bedrock_only")
    return [
        System("daemon", port, path("plan", "plan_first"), pid, started),
        System("daemon, Bedrock messages", port, bedrock, pid, started),
        System("daemon, Bedrock invoke", port, bedrock, pid, started, "claude-sonnet-4-5"),
    ]


class _process:
    """A child that is up on a port; ended by pid at the end."""

    def __init__(self, command: list[str], port: int, environment: dict[str, str] | None = None) -> None:
        self._command, self._port, self._environment = command, port, environment
        self.start_seconds = 0.0

    def __enter__(self) -> int:
        began = time.perf_counter()
        self._child = subprocess.Popen(self._command, env=self._environment, stderr=subprocess.DEVNULL)
        for _ in range(2000):
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                if self._child.poll() is not None:
                    break
                time.sleep(0.005)
            else:
                self.start_seconds = time.perf_counter() - began
                return self._child.pid
        raise SystemExit(f"{self._command[0]} did not start")

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        self._child.wait(15)


def _call(url: str, headers: dict[str, str], body: object = None) -> dict[str, str]:
    data = dumps(body).encode() if body is not None else b""
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return dict(loads(answer.read()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
