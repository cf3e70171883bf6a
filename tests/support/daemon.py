"""A real daemon in the test's own loop: uvicorn on a loopback port, its own data directory."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from daemon.runtime import Runtime
from daemon.secrets_store import load_secrets
from daemon.serve import build_server, listen
from daemon.settings import Settings, load_settings
from tests.support.simulator import running_bedrock, running_simulator

ADMIN_PASSWORD = "correct horse battery staple"
BEDROCK_API_KEY = {"auth": "api_key", "api_key": "ABSK" + "Q" * 120, "region": "us-east-1"}
IAM_KEY = {
    "auth": "iam",
    "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE",
    "aws_secret_access_key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "region": "us-east-1",
}
PLAN_API_KEY = "sk-ant-api03-the-plan-key-of-the-tests"


@dataclass
class RunningDaemon:
    """What a test needs of a daemon: where it is, and its insides."""

    url: str
    port: int
    runtime: Runtime
    settings: Settings

    async def admin_token(self) -> str:
        async with httpx.AsyncClient(base_url=self.url) as client:
            answer = await client.post("/admin/auth/login", auth=("admin", ADMIN_PASSWORD))
            answer.raise_for_status()
            return str(answer.json()["access_token"])

    async def create_key(
        self,
        user: str = "alice",
        name: str = "laptop",
        *,
        strategy: str = "plan_first",
        bedrock: dict[str, str] | None = None,
    ) -> str:
        """An access key for a new user, made through the admin API; `bedrock` registers a Bedrock key with it."""
        headers = {"authorization": f"Bearer {await self.admin_token()}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers) as client:
            created = await client.post("/admin/users", json={"name": user, "routing_strategy": strategy})
            created.raise_for_status()
            key = await client.post(f"/admin/users/{created.json()['id']}/access-keys", json={"name": name})
            key.raise_for_status()
            if bedrock is not None:
                path = f"/admin/access-keys/{key.json()['id']}/bedrock-key"
                registered = await client.post(path, json=bedrock)
                registered.raise_for_status()
            return str(key.json()["access_key"])

    async def records(self) -> list[dict[str, Any]]:
        """The ledger as the admin API shows it, oldest first."""
        await self.runtime.ledger.flush()
        headers = {"authorization": f"Bearer {await self.admin_token()}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers) as client:
            answer = await client.get("/admin/usage/records", params={"limit": 500})
            answer.raise_for_status()
            items: list[dict[str, Any]] = answer.json()["items"]
            return items[::-1]


@asynccontextmanager
async def running_daemon(tmp_path: Path, plan_url: str, **variables: str) -> AsyncIterator[RunningDaemon]:
    """A daemon whose plan is `plan_url`; `variables` are environment variables, `PROXY_` included."""
    environment = {
        "PROXY_DATA_DIR": str(tmp_path / "data"),
        "PROXY_PLAN_API_URL": plan_url,
        "PROXY_PLAN_API_KEY": PLAN_API_KEY,
        "PROXY_ADMIN_PASSWORD_HASH": hashlib.sha256(ADMIN_PASSWORD.encode()).hexdigest(),
        "PROXY_KEY_HASHER_SECRET": "hasher-0123456789abcdefghijklmnopqrstuv",
        "PROXY_JWT_SECRET": "jwt-0123456789abcdefghijklmnopqrstuvwxyz",
        **variables,
    }
    settings = load_settings({name: value for name, value in environment.items() if value})
    assert isinstance(settings, Settings), settings
    keys = load_secrets(settings, lambda _: "")
    assert not isinstance(keys, list), keys
    runtime = Runtime(settings, keys)
    await runtime.start()
    listener = listen("127.0.0.1", 0)
    server = build_server(runtime, settings)
    serving = asyncio.ensure_future(server._serve([listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.001)
        port = listener.getsockname()[1]
        yield RunningDaemon(f"http://127.0.0.1:{port}", port, runtime, settings)
    finally:
        server.config.timeout_graceful_shutdown = 2
        server.should_exit = True
        await serving
        await runtime.aclose()


@asynccontextmanager
async def daemon_between_simulators(tmp_path: Path, store_url: str) -> AsyncIterator[tuple[RunningDaemon, str]]:
    """A daemon that can do everything, with both providers simulated; and the plan's URL."""
    async with (
        running_simulator() as (_, plan),
        running_bedrock() as (_, bedrock),
        running_daemon(
            tmp_path,
            plan,
            PROXY_DATABASE_URL=store_url,
            PROXY_LOCAL_ENCRYPTION_KEY="0f" * 32,
            PROXY_BEDROCK_URL=bedrock,
        ) as daemon,
    ):
        yield daemon, plan
