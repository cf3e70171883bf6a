"""P10: the journal's disk is full; the store takes its place, and a kill meanwhile loses nothing either."""

import asyncio
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest

from daemon.core.periods import day_start
from daemon.gateway.leases import Leases
from tests.drill.rig import Asked, Daemon, books, count, is_exact
from tests.gateway.test_budgets import replica
from tests.support.simulator import running_simulator

pytestmark = [pytest.mark.drill, pytest.mark.timeout(300)]

REQUESTS = count("DISK_REQUESTS", 60)
CLIENTS = 10


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of one MiB at a directory, and a file to fill it with; where mounting is not allowed, a directory
    that takes no new files for other reasons."""
    directory.mkdir(parents=True)
    mounted = shutil.which("mount") is not None and (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory], capture_output=True).returncode
        == 0
    )
    try:
        yield directory / "filling"
    finally:
        if mounted:
            subprocess.run(["umount", "-l", directory], check=True, capture_output=True)


def fill(file: Path) -> None:
    """Leave no byte free; on a disk that does not fill up, leave no room for new files."""
    with suppress(OSError), file.open("wb") as filling:
        for _ in range(512):
            filling.write(b"x" * 4096)
            filling.flush()
        file.parent.chmod(0o500)


async def test_with_a_full_disk_every_request_is_served_and_on_the_books(tmp_path: Path) -> None:
    asked = Asked()
    numbers = random.Random(5)
    with small_disk(tmp_path / "data" / "journal") as filling:
        async with running_simulator() as (simulator, plan):
            daemon = Daemon(tmp_path, plan)
            await daemon.start()
            key = await daemon.create_key()
            limits = httpx.Limits(max_connections=CLIENTS)
            async with httpx.AsyncClient(base_url=daemon.url, timeout=20, limits=limits) as client:
                await asyncio.gather(*(asked.ask(client, key, numbers) for _ in range(REQUESTS)))
                fill(filling)
                await asyncio.gather(*(asked.ask(client, key, numbers) for _ in range(REQUESTS)))
                assert (len(asked.finished), asked.failed) == (2 * REQUESTS, [])
                running = [asyncio.ensure_future(asked.keep_asking(client, key, n, pause=0.05)) for n in range(CLIENTS)]
                await asyncio.sleep(1.0)
                assert await daemon.end(signal.SIGKILL) == -signal.SIGKILL
                await asyncio.gather(*running)
            filling.parent.chmod(0o700)
            filling.unlink()
            await daemon.start()
            assert await daemon.end(signal.SIGTERM) == 0
    store = daemon.store()
    later = datetime.now(UTC) + timedelta(seconds=90)
    zone = ZoneInfo("UTC")
    spend = replica(store, "balanced").budgets
    leases = Leases(store.write, spend, owner="another", now=lambda: later, day_of=lambda at: day_start(at, zone))
    while await leases.reap():
        pass
    rows = await books(store)
    await store.aclose()
    dispatched = asked.dispatched(simulator.log)
    assert dispatched - set(rows) == set()
    assert [session for session, tokens in asked.finished.items() if not is_exact(rows[session], tokens)] == []
    orphans = sum(row["ended"] == "orphaned" for row in rows.values())
    print(f"\n{len(dispatched)} requests out, {len(rows)} rows, {orphans} orphans of a kill with a full disk, 0 lost")
