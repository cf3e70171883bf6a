"""`proxyctl` on a terminal of its own, with somebody who types."""

import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

CTRL_C, CTRL_D = b"\x03", b"\x04"


def on_a_terminal(*arguments: str, typed: Sequence[tuple[bytes, bytes]] = (), **variables: str) -> tuple[int, str]:
    """Run it, and type each answer once what it answers to is on the screen: the exit code, and all that was shown."""
    ours, theirs = pty.openpty()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "TERM": "xterm",
        "NO_COLOR": "1",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        **variables,
    }
    command = [sys.executable, "-m", "proxyctl", *arguments]
    child = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
        preexec_fn=_control,
    )
    os.close(theirs)
    seen = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 65536):
                seen.extend(chunk)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + 30
    for wanted, answer in typed:
        while wanted not in seen and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.write(ours, answer)
    code = child.wait(30)
    reader.join(5)
    os.close(ours)
    return code, seen.decode(errors="replace").replace("\r\n", "\n")


def _control() -> None:
    """Make the terminal the one that Ctrl-C comes from."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
