"""P1: the daemon is killed at random moments under load; what a client saw finished is on the books, once and exactly."""

import asyncio
import hashlib
import json
import os
import random
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from daemon.core.pricing import price
from daemon.core.tokens import TokenCounts
from daemon.store.engine import Store
from tests.support import usage
from tests.support.daemon import ADMIN_PASSWORD
from tests.support.plane import SHEET
from tests.support.simulator import running_simulator

CYCLES = int(os.environ.get("DRILL_CYCLES", "40"))
CLIENTS = 20
MODEL = "claude-haiku-5-5"

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]


class Daemon:
    """The daemon as a process that can be killed."""

    def __init__(self, directory: Path, plan_url: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = directory / "daemon.log"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PROXY_DATA_DIR": str(directory / "data"),
            "PROXY_PLAN_API_URL": plan_url,
            "PROXY_PLAN_API_KEY": "simulated",
            "PROXY_ADMIN_PASSWORD_HASH": hashlib.sha256(ADMIN_PASSWORD.encode()).hexdigest(),
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "proxyctl", "serve", "--port", str(self.port),
                env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip
        async with asyncio.timeout(30), httpx.AsyncClient(base_url=self.url) as client:
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get("/readyz")).status_code == 200:
                        return
                assert self._process.returncode is None, self._log.read_text()[-2000:]
                await asyncio.sleep(0.02)

    async def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return await self._process.wait()

    async def create_key(self) -> str:
        async with httpx.AsyncClient(base_url=self.url) as client:
            signed_in = await client.post("/admin/auth/login", auth=("admin", ADMIN_PASSWORD))
            client.headers["authorization"] = f"Bearer {signed_in.json()['access_token']}"
            user = (await client.post("/admin/users", json={"name": "drill"})).json()
            key = await client.post(f"/admin/users/{user['id']}/access-keys", json={"name": "drill"})
            return str(key.json()["access_key"])


async def keep_asking(client: httpx.AsyncClient, key: str, seen: dict[str, tuple[int, int]], seed: int) -> None:
    """Ask until the daemon is gone. `seen`: what was received to the end, by request id."""
    numbers = random.Random(seed)
    while True:
        counts = {"input": numbers.randrange(1, 5000), "output": numbers.randrange(1, 5000)}
        script = json.dumps({"usage": counts, "text": "x" * numbers.randrange(1, 200)})
        body = {"model": MODEL, "stream": numbers.random() < 0.8, "messages": []}
        try:
            answer = await client.post(f"/ak/{key}/v1/messages", json=body, headers={"x-sim-script": script})
        except httpx.TransportError:
            return
        if answer.status_code == 200 and (not body["stream"] or "event: message_stop" in answer.text):
            seen[answer.headers["request-id"]] = (counts["input"], counts["output"])


async def test_what_a_client_saw_finished_survives_kill_9(tmp_path: Path) -> None:
    moments = random.Random(20261127)
    seen: dict[str, tuple[int, int]] = {}
    async with running_simulator() as (_, plan):
        daemon = Daemon(tmp_path, plan)
        await daemon.start()
        key = await daemon.create_key()
        client = httpx.AsyncClient(base_url=daemon.url, timeout=10, limits=httpx.Limits(max_connections=CLIENTS))
        for cycle in range(CYCLES):
            clients = [
                asyncio.ensure_future(keep_asking(client, key, seen, cycle * CLIENTS + n)) for n in range(CLIENTS)
            ]
            await asyncio.sleep(moments.uniform(0.0, 0.5))
            assert await daemon.end(signal.SIGKILL) == -signal.SIGKILL
            await asyncio.wait_for(asyncio.gather(*clients), 30)
            await daemon.start()
        await client.aclose()
        assert await daemon.end(signal.SIGTERM) == 0

    store = Store.open(f"sqlite+aiosqlite:///{tmp_path}/data/proxyctl.db")
    async with store.read() as connection:
        rows = await usage.rows(connection)
        hours = await usage.rollup(connection)
    await store.aclose()
    assert len(seen) >= CYCLES * 3
    by_id = {row["request_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    assert set(seen) - set(by_id) == set()
    for request_id, (read, written) in seen.items():
        row = by_id[request_id]
        assert (row["input_tokens"], row["output_tokens"], row["estimated"]) == (read, written, False)
        tokens = TokenCounts(input=read, output=written)
        assert row["cost_nano_usd"] == price(tokens, sheet=SHEET, provider="plan", model=MODEL).cost.total_nano
    assert hours["cost_nano_usd"] == sum(row["cost_nano_usd"] for row in rows)
    print(f"\n{CYCLES} kills, {len(seen)} finished requests, {len(rows)} rows, 0 lost, 0 twice")
