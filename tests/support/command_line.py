"""Many runs of `proxyctl` for the price of one start: a process that has imported it forks for each.

A real shell calls `proxyctl` as always; what it finds on its PATH hands its arguments, environment and standard streams to
the process that forks. What a run sees is what it would see anyhow, but for the imports that were done before.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

_LARGEST = 1 << 20  # bytes of arguments and environment
_STUB = """
import json, os, socket, sys
call = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
call.connect(sys.argv[1])
body = json.dumps({"arguments": sys.argv[2:], "environment": dict(os.environ), "directory": os.getcwd()}).encode()
socket.send_fds(call, [body], [0, 1, 2])
sys.exit(int(call.recv(16)))
"""


@contextlib.contextmanager
def command_line(home: Path) -> Iterator[Path]:
    """The directory with a `proxyctl` to put on a PATH; the process behind it ends with the context."""
    address = home / "proxyctl.socket"
    stub = home / "stub.py"
    stub.write_text(_STUB)
    programs = home / "bin"
    programs.mkdir()
    program = programs / "proxyctl"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{stub}" "{address}" "$@"\n')
    program.chmod(0o755)
    server = subprocess.Popen([sys.executable, "-m", "tests.support.command_line", str(address)])
    try:
        deadline = time.monotonic() + 30
        while not address.exists():
            assert server.poll() is None, "the process that forks did not start"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield programs
    finally:
        server.terminate()
        server.wait(10)


def serve(address: str) -> None:
    """Fork for each call; returns in the child, whose command line and streams are then those of the caller."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that watch over a run are not waited for
    while True:
        call, _ = listener.accept()
        if os.fork():
            call.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        body, streams, _, _ = socket.recv_fds(call, _LARGEST, 3)
        child = os.fork()
        if child == 0:
            call.close()
            _become(json.loads(body), streams)
            return
        _watch(call, child)


def _watch(call: socket.socket, child: int) -> NoReturn:
    """Hand the exit code back; a caller that is gone takes the run with it."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if select.select([call], [], [], 0.005)[0]:
            os.kill(child, signal.SIGTERM)
            os._exit(1)
    call.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    os._exit(0)


def _become(call: dict[str, Any], streams: list[int]) -> None:
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
        os.close(stream)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(call["environment"])
    os.chdir(call["directory"])
    sys.argv = ["proxyctl", *call["arguments"]]


if __name__ == "__main__":
    from importlib import import_module

    from proxyctl.main import run, tree

    for module in ("httpx", "jmespath", "yaml", "daemon.store.migrate", "proxyctl.client"):
        import_module(module)
    tree()
    gc.freeze()
    serve(sys.argv[1])
    try:
        run()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))  # what the interpreter tidies up at its end takes longer than most commands
