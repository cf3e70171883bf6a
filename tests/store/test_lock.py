"""One daemon per data directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.store.lock import AlreadyRunning, DirectoryLock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from daemon.store.lock import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_daemon_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    first = DirectoryLock(tmp_path)
    first.acquire()
    with pytest.raises(AlreadyRunning) as refused:
        DirectoryLock(tmp_path).acquire()
    first.release()
    assert str(os.getpid()) in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_a_lock_that_was_released_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(3):
        lock = DirectoryLock(tmp_path)
        lock.acquire()
        lock.release()
        lock.release()
    assert (tmp_path / "daemon.lock").stat().st_mode & 0o777 == 0o600


def test_a_daemon_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunning, match=str(holder.pid)):
            DirectoryLock(tmp_path).acquire()
        holder.kill()
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    lock.release()
