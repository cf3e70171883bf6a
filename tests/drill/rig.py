"""What drills share: a daemon that can be killed, clients that keep asking, and the invariants of the books."""

import asyncio
import hashlib
import json
import os
import random
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from daemon.core.pricing import price
from daemon.core.tokens import TokenCounts
from daemon.store.engine import Store
from daemon.store.tables import budget_counters, intents, token_usage
from tests.support import usage
from tests.support.daemon import ADMIN_PASSWORD
from tests.support.plane import SHEET

MODEL = "claude-haiku-5-5"
PROMPT = "x" * 400


def count(name: str, default: int) -> int:
    """How often, from the environment: small by default, `make drill` raises it."""
    return int(os.environ.get(f"DRILL_{name}", default))


class Daemon:
    """The daemon as a process that can be killed."""

    def __init__(self, directory: Path, plan_url: str, **variables: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = directory / "data"
        self._log = directory / "daemon.log"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PROXY_DATA_DIR": str(self.data),
            "PROXY_PLAN_API_URL": plan_url,
            "PROXY_PLAN_API_KEY": "simulated",
            "PROXY_ADMIN_PASSWORD_HASH": hashlib.sha256(ADMIN_PASSWORD.encode()).hexdigest(),
            **variables,
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready."""
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

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end."""
        assert self._process is not None
        self._process.send_signal(number)
        return await self._process.wait()

    async def create_key(self, *, budget: str | None = None) -> str:
        """An access key of a new user."""
        return await create_key(self.url, budget=budget)

    def store(self) -> Store:
        """Its SQLite store, opened by the test."""
        return Store.open(f"sqlite+aiosqlite:///{self.data}/proxyctl.db")


async def create_key(url: str, name: str = "drill", *, budget: str | None = None) -> str:
    """An access key of a new user, who may have a monthly budget."""
    async with httpx.AsyncClient(base_url=url) as client:
        signed_in = await client.post("/admin/auth/login", auth=("admin", ADMIN_PASSWORD))
        client.headers["authorization"] = f"Bearer {signed_in.json()['access_token']}"
        user = (await client.post("/admin/users", json={"name": name})).json()
        if budget is not None:
            limit = {"budget_usd": budget, "period": "monthly"}
            (await client.put(f"/admin/users/{user['id']}/budget", json=limit)).raise_for_status()
        key = await client.post(f"/admin/users/{user['id']}/access-keys", json={"name": name})
        return str(key.json()["access_key"])


@dataclass
class Asked:
    """What clients asked and saw. A request is known by its session, which the ledger keeps, and by its body."""

    sessions: dict[str, str] = field(default_factory=dict)  # by the SHA-256 of the body
    finished: dict[str, tuple[int, int]] = field(default_factory=dict)  # input and output tokens, by session
    failed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    async def ask(self, client: httpx.AsyncClient, key: str, numbers: random.Random, *, pause: float = 0.0) -> bool:
        """One request; False when the daemon is not there. `pause`: seconds at most between two events."""
        tokens = {"input": numbers.randrange(1, 5000), "output": numbers.randrange(1, 5000)}
        script: dict[str, Any] = {"usage": tokens, "text": "x" * numbers.randrange(1, 200)}
        if pause:
            script["event_delay"] = numbers.uniform(0, pause)
        session = f"{numbers.getrandbits(96):024x}"
        body = {
            "model": MODEL,
            "max_tokens": 5000,
            "stream": numbers.random() < 0.8,
            "messages": [{"role": "user", "content": f"{session} {PROMPT}"}],
        }
        content = json.dumps(body).encode()
        self.sessions[hashlib.sha256(content).hexdigest()] = session
        headers = {"x-sim-script": json.dumps(script), "x-claude-code-session-id": session}
        headers["content-type"] = "application/json"
        started = asyncio.get_running_loop().time()
        try:
            answer = await client.post(f"/ak/{key}/v1/messages", content=content, headers=headers)
        except httpx.TransportError:
            return False
        self.seconds.append(asyncio.get_running_loop().time() - started)
        if answer.status_code == 200 and (not body["stream"] or "event: message_stop" in answer.text):
            self.finished[session] = (tokens["input"], tokens["output"])
        else:
            self.failed.append(f"{answer.status_code} {answer.text[-300:]}")
        return True

    async def keep_asking(self, client: httpx.AsyncClient, key: str, seed: int, *, pause: float = 0.0) -> None:
        """Ask until the daemon is gone."""
        numbers = random.Random(seed)
        while await self.ask(client, key, numbers, pause=pause):
            pass

    def dispatched(self, log: list[dict[str, Any]]) -> set[str]:
        """The sessions that the provider got, by its own log."""
        return {self.sessions[entry["body_sha256"]] for entry in log if entry["kind"] == "messages"}


async def books(store: Store) -> dict[str, dict[str, Any]]:
    """The ledger by session, once the invariants of all books hold."""
    async with store.read() as connection:
        rows = await usage.rows(connection)
        hours, days = await usage.rollup(connection), await usage.rollup(connection, "day")
        counters = (await connection.execute(select(budget_counters))).mappings().all()
        open_intents = await connection.scalar(select(func.count()).select_from(intents))
        for counter in counters:
            spent = select(func.coalesce(func.sum(token_usage.c.cost_nano_usd), 0)).where(
                token_usage.c.user_id == counter["user_id"]
            )
            assert counter["settled_nano_usd"] == await connection.scalar(spent)
    if not open_intents:
        assert {counter["reserved_nano_usd"] for counter in counters} <= {0}
    by_session = {row["session_id"]: row for row in rows}
    assert len(by_session) == len(rows) == len({row["request_id"] for row in rows})
    for sums in (hours, days):
        assert (sums["requests"], sums["cost_nano_usd"]) == (len(rows), sum(row["cost_nano_usd"] for row in rows))
    return by_session


def is_exact(row: dict[str, Any], tokens: tuple[int, int]) -> bool:
    """Whether a row has a finished request's tokens and its cost to the nano-dollar."""
    read, written = tokens
    cost = price(TokenCounts(input=read, output=written), sheet=SHEET, provider="plan", model=MODEL).cost.total_nano
    found = (row["ended"], row["estimated"], row["input_tokens"], row["output_tokens"], row["cost_nano_usd"])
    return bool(found == ("finished", False, read, written, cost))
