"""Runs the daemon: one listening socket, signals, drain. Server start and stop live here."""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable

import structlog
import uvicorn

from daemon.core.price_sheets import PriceSheetError
from daemon.observability.logging import configure
from daemon.observability.tasks import spawn
from daemon.runtime import Runtime, SchemaOutdated, new_request_id
from daemon.secrets_store import Secrets, database_url, load_secrets
from daemon.security.passwords import hash_password
from daemon.settings import Settings, SettingsProblem
from daemon.store.lock import AlreadyRunning
from daemon.web.http_protocol import EdgeLimits, hardened_protocol

log = structlog.get_logger()

KEEP_ALIVE_SECONDS = 620  # longer than any load balancer in front keeps an idle connection
BACKLOG = 2048


Reread = Callable[[], Settings | list[SettingsProblem]]


def run(
    settings: Settings, *, host: str, port: int, say: Callable[[str], None] = print, reread: Reread | None = None
) -> int:
    """Serve until SIGTERM or Ctrl-C. Returns the process's exit code; `say` gets lines for a person on stderr.

    `reread` gives the settings as they are later, for what is loaded again while the daemon runs.
    """
    configure(level=settings.log_level, json=not sys.stderr.isatty())
    keys = load_secrets(settings, hash_password)
    if isinstance(keys, list):
        for problem in keys:
            say(f"error: {problem}")
        return 2
    try:
        listener = listen(host, port)
    except OSError as error:
        say(f"error: cannot listen on {host}:{port}: {error.strerror}")
        return 1
    with contextlib.closing(listener):
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                return runner.run(_serve(settings, keys, listener, say, reread))
        except PriceSheetError as error:
            say(f"error: {error}")
            return 2
        except (AlreadyRunning, SchemaOutdated) as error:
            say(f"error: {error}")
            return 1
        except KeyboardInterrupt:
            return 130


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a taken port is known before anything else starts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def build_server(runtime: Runtime, settings: Settings) -> uvicorn.Server:
    """The HTTP server around a started runtime; the caller gives it sockets."""
    hosts = frozenset(name.strip().lower() for name in settings.allowed_hosts.split(",") if name.strip())
    config = uvicorn.Config(
        runtime.app,
        http=hardened_protocol(EdgeLimits(), hosts, new_request_id),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        backlog=BACKLOG,
    )
    return uvicorn.Server(config)


async def _serve(
    settings: Settings, keys: Secrets, listener: socket.socket, say: Callable[[str], None], reread: Reread | None
) -> int:
    runtime = Runtime(settings, keys, reread)
    await runtime.start()
    try:
        server = build_server(runtime, settings)
        drain = Drain(server, runtime, delay=settings.drain_delay, longest=settings.drain_max)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, drain.request)
        gc.collect()
        gc.freeze()  # what is loaded now stays: looking through it again would stop all streams for 50 ms at a time
        _announce(settings, keys, listener, say)
        await server._serve([listener])  # `serve` would take the signals for itself
    finally:
        await runtime.aclose()
    log.info("daemon stopped")
    return 0


class Drain:
    """The way out: say so on `/readyz`, keep accepting for `delay` s, let streams finish for at most `longest` s."""

    def __init__(self, server: uvicorn.Server, runtime: Runtime, *, delay: float, longest: float) -> None:
        self._server = server
        self._runtime = runtime
        self._delay = delay
        self._longest = longest
        self._requested = False

    def request(self) -> None:
        """The first signal drains, the second stops at once."""
        if self._requested:
            self._server.force_exit = True
            self._server.should_exit = True
            return
        self._requested = True
        self._runtime.drain()
        spawn(self._run(), name="drain")

    async def _run(self) -> None:
        await asyncio.sleep(self._delay)
        self._server.should_exit = True
        self._server.config.timeout_graceful_shutdown = int(self._longest)


def _announce(settings: Settings, keys: Secrets, listener: socket.socket, say: Callable[[str], None]) -> None:
    host, port = listener.getsockname()[:2]
    say(f"proxyctl daemon on http://{host}:{port}  (store: {database_url(settings).partition('+')[0]})")
    if keys.new_admin_password:
        say(f"admin user {settings.admin_username!r}, password (shown once): {keys.new_admin_password}")
    if host not in ("127.0.0.1", "::1"):
        log.warning("plain HTTP beyond loopback: put TLS in front, keys travel in clear otherwise", host=host)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not built for this platform: asyncio's own loop does the same, slower
        return None
    return uvloop.new_event_loop
