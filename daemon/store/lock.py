"""One daemon per data directory."""

import fcntl
import os
from pathlib import Path


class AlreadyRunning(Exception):
    """Another process holds the data directory."""


class DirectoryLock:
    """An advisory lock that the kernel drops when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "daemon.lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            AlreadyRunning: naming the process that has it.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "another process"
            os.close(descriptor)
            raise AlreadyRunning(
                f"the data directory {self._path.parent} is in use by process {holder};"
                " stop it, or give this daemon its own PROXY_DATA_DIR"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
