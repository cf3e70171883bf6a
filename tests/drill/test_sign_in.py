"""P29: wrong passwords from many addresses; a right one from a clean address gets in, and the data plane goes on."""

import asyncio
import json
import random
import signal
import sys
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select

from daemon.store.tables import audit_log
from tests.drill.rig import Asked, Daemon, count
from tests.support.daemon import ADMIN_PASSWORD
from tests.support.simulator import running_simulator

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]

LOGINS = count("LOGINS", 1000)
ADDRESSES = 50
MIB = 1024 * 1024


def _from(address: str, url: str) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(local_address=address, verify=False)  # without: 20 ms each
    return httpx.AsyncClient(transport=transport, base_url=url, timeout=30)


async def _flood(port: int) -> dict[int, int]:
    """How often each status was answered."""
    command = [sys.executable, "-m", "tests.drill.flood", str(port), str(LOGINS), str(ADDRESSES)]
    flood = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await flood.communicate()
    assert flood.returncode == 0
    return {int(status): number for status, number in json.loads(out).items()}


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000


async def test_ten_thousand_wrong_passwords_starve_nobody(tmp_path: Path) -> None:
    right: list[tuple[int, float]] = []
    health: list[float] = []
    most = 0
    async with running_simulator() as (_, plan):
        daemon = Daemon(tmp_path, plan, PROXY_ADMIN_PASSWORD_HASH=_argon2())
        await daemon.start()
        key = await daemon.create_key()
        numbers = random.Random(7)
        calm, flooded = Asked(), Asked()
        async with httpx.AsyncClient(base_url=daemon.url, timeout=30) as client:
            for _ in range(200):
                await calm.ask(client, key, numbers)
            before = _resident(daemon.pid)
            flooding = True

            async def be_right() -> None:
                number = 0
                while flooding:
                    number += 1
                    async with _from(f"127.0.1.{number % 200 + 1}", daemon.url) as clean:
                        started = time.monotonic()
                        answer = await clean.post("/admin/auth/login", auth=("admin", ADMIN_PASSWORD))
                        right.append((answer.status_code, time.monotonic() - started))
                    await asyncio.sleep(0.25)

            async def keep_asking() -> None:
                while flooding:
                    await flooded.ask(client, key, numbers)

            async def watch() -> None:
                nonlocal most
                while flooding:
                    started = time.monotonic()
                    await client.get("/healthz")
                    health.append(time.monotonic() - started)
                    most = max(most, _resident(daemon.pid))
                    await asyncio.sleep(0.05)

            others = [asyncio.ensure_future(job()) for job in (be_right, keep_asking, watch)]
            started = time.monotonic()
            statuses = await _flood(daemon.port)
            seconds = time.monotonic() - started
            flooding = False
            await asyncio.gather(*others)
        store = daemon.store()
        async with store.read() as connection:
            query = select(audit_log.c.action, func.count()).group_by(audit_log.c.action)
            rows = {row.action: row[1] for row in await connection.execute(query)}
        await store.aclose()
        assert await daemon.end(signal.SIGTERM) == 0
    wrong = sum(statuses.values())
    without, with_flood = _p99(calm.seconds), _p99(flooded.seconds)
    print(
        f"\n{wrong} wrong passwords in {seconds:.1f} s: {statuses.get(401, 0)} checked, the rest 429;"
        f" {len(right)} right ones from clean addresses, slowest {max(took for _, took in right) * 1000:.0f} ms;"
        f" memory +{(most - before) / MIB:.0f} MiB; data plane p99 {without:.1f} ms without, {with_flood:.1f} ms with"
        f" ({with_flood / without:.1f} times, {len(flooded.seconds)} requests); /healthz p99 {_p99(health):.1f} ms"
    )
    assert set(statuses) <= {401, 429}
    assert statuses.get(401, 0) <= 300
    assert rows["session.refused"] == statuses.get(401, 0)
    assert rows["session.throttled"] <= seconds / 60 + 2
    assert {status for status, _ in right} == {200}
    assert max(took for _, took in right) <= 1.0
    assert most - before <= 200 * MIB
    assert (calm.failed, flooded.failed) == ([], [])


def _argon2() -> str:
    from daemon.security.passwords import hash_password

    return hash_password(ADMIN_PASSWORD)
