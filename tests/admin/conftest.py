"""The admin API in the test's own process, on both stores, with a clock that stands still until moved."""

import hashlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import pytest
from fastapi import FastAPI

from daemon.admin.app import build_admin_app
from daemon.core.mapping import load_catalogue
from daemon.core.price_sheets import load_sheet
from daemon.resources import data_file
from daemon.security.envelope import Envelope, LocalCipher
from daemon.services.bedrock_keys import ProbeResult
from daemon.services.pricing import Layer, Pricing
from daemon.services.registry import Services, build_services
from daemon.store.engine import Store

PASSWORD = "correct horse battery staple"
HASHER_SECRET = b"hasher-0123456789abcdefghijklmnop"
ENVIRONMENT = {"claude-haiku-4-5": "eu.anthropic.claude-haiku-4-5-20251001-v1:0"}
JWT_SECRET = b"jwt-0123456789abcdefghijklmnopqrs"
LOCAL_KEY = bytes(range(32))
PROBED = ProbeResult(
    ok=True,
    model="claude-haiku-5-5",
    bedrock_model="eu.anthropic.claude-haiku-5-5",
    route="messages",
    status=200,
    message=None,
    cost_nano_usd=12_000,
    duration_ms=321,
    request_id="req_probe",
)


@dataclass
class Clock:
    instant: datetime = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.instant

    def forward(self, **amount: float) -> None:
        self.instant += timedelta(**amount)


@dataclass
class Plane:
    """The control plane under test."""

    store: Store
    clock: Clock
    services: Services
    app: FastAPI
    changes: list[datetime] = field(default_factory=list)
    announced: list[str] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)

    def anonymous(self, address: str = "127.0.0.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app, client=(address, 1234))
        return httpx.AsyncClient(transport=transport, base_url="http://admin.test")

    async def sign_in(self) -> str:
        async with self.anonymous() as client:
            answer = await client.post("/admin/auth/login", auth=("admin", PASSWORD))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])


async def probe(_: UUID) -> ProbeResult:
    return PROBED


def build_plane(store: Store) -> Plane:
    clock, changes, announced = Clock(), [], []
    document = data_file("models.json").read_bytes()
    layers: list[Layer] = []
    pricing = Pricing(store, packaged=load_sheet(document), read_configured=lambda: list(layers), now=clock)
    services = build_services(
        store,
        hasher_secret=HASHER_SECRET,
        jwt_secret=JWT_SECRET,
        admin_username="admin",
        admin_password_hash=hashlib.sha256(PASSWORD.encode()).hexdigest(),
        zone=ZoneInfo("UTC"),
        budget_mode="balanced",
        budget_scope="bedrock",
        budget_default_nano=None,
        now=clock,
        token_bytes=secrets.token_bytes,
        version="1.2.3",
        catalogue=load_catalogue(document),
        model_environment=ENVIRONMENT,
        default_bedrock_region="eu-west-1",
        envelope=Envelope(LocalCipher(LOCAL_KEY)),
        probe_bedrock=probe,
        pricing=pricing,
        on_access_change=lambda: changes.append(clock()),
        on_models_change=lambda: announced.append("models"),
        on_routing_change=lambda: announced.append("routing"),
        system_facts=lambda: {"database": store.dialect, "requests_in_flight": 0, "circuits_open": 0},
    )
    return Plane(store, clock, services, build_admin_app(services), changes, announced, layers)


@pytest.fixture
def plane(store: Store) -> Plane:
    return build_plane(store)


@pytest.fixture
async def admin(plane: Plane) -> AsyncIterator[httpx.AsyncClient]:
    """A client that is signed in."""
    token = await plane.sign_in()
    async with plane.anonymous() as client:
        client.headers["authorization"] = f"Bearer {token}"
        yield client


async def new_user(admin: httpx.AsyncClient, name: str = "alice", **fields: Any) -> dict[str, Any]:
    answer = await admin.post("/admin/users", json={"name": name} | fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def new_key(admin: httpx.AsyncClient, user_id: str, name: str = "laptop", **fields: Any) -> dict[str, Any]:
    answer = await admin.post(f"/admin/users/{user_id}/access-keys", json={"name": name} | fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())
