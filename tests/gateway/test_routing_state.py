"""What replicas share: circuits, what was learned, where sessions are, and what an operator changed on one of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import structlog
from sqlalchemy import insert, select

from daemon.core.circuit import PROBE_SECONDS, Policy
from daemon.core.failure import verdict
from daemon.gateway.circuits import Circuits
from daemon.gateway.learned import Compatibility, Sessions
from daemon.observability.tasks import Saves
from daemon.protocol.bedrock.compat import Rule
from daemon.services.audit import Actor
from daemon.services.circuits import Circuits as CircuitsService
from daemon.simulator.anthropic import AnthropicSimulator
from daemon.simulator.bedrock import BedrockSimulator
from daemon.simulator.script import Step
from daemon.store.engine import Store
from daemon.store.tables import access_keys, circuits, users
from tests.support.daemon import BEDROCK_API_KEY, RunningDaemon, running_daemon
from tests.support.plane import nowhere
from tests.support.simulator import running_bedrock, running_simulator

OWN = ("access_key", str(UUID(int=2)), "plan")
SHARED = ("credential", "plan", "plan")
OVERLOADED = verdict("overloaded")
PROFILE, ROUTE = Rule("profile", "global.anthropic.claude-opus-5-5"), Rule("route", "invoke")
KEY = UUID(int=2)
PROPAGATES_WITHIN = 2.5  # the poll comes every second; the rest is room for a busy machine


@dataclass
class Clock:
    """Both clocks of a replica; `monotonic` begins anywhere."""

    begins: float = 100.0
    passed: float = 0.0

    def now(self) -> datetime:
        return datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=self.passed)

    def monotonic(self) -> float:
        return self.begins + self.passed


class Replica:
    """The routing state of one replica. `store` None: it is away."""

    def __init__(self, store: Store | None, clock: Clock) -> None:
        self._store = store
        self._saves = Saves()
        write: Any = store.write if store is not None else nowhere
        self.circuits = Circuits(
            write,
            self._saves,
            policy=Policy(3, 600.0),
            owner=uuid4().hex[:16],
            now=clock.now,
            monotonic=clock.monotonic,
            jitter=lambda: 0.0,
            new_id=uuid4,
        )
        self.compatibility = Compatibility(write, self._saves, ttl=3600, now=clock.now, new_id=uuid4)
        self.sessions = Sessions(write, self._saves, dwell=300, now=clock.now, monotonic=clock.monotonic)

    async def saved(self) -> None:
        await self._saves.finished()

    async def load(self) -> None:
        await self.saved()
        assert self._store is not None
        async with self._store.write() as connection:
            await self.circuits.load(connection)
            await self.compatibility.load(connection)
            await self.sessions.load(connection)

    async def allows(self) -> bool:
        return await self.circuits.allow([OWN, SHARED])


class Pair:
    """Two replicas on one store; time passes for both, their monotonic clocks have nothing to do with each other."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clocks = Clock(100.0), Clock(7_000_000.0)
        self.one, self.other = (Replica(store, clock) for clock in self.clocks)

    def forward(self, seconds: float) -> None:
        for clock in self.clocks:
            clock.passed += seconds

    async def load(self) -> None:
        await self.one.saved()
        await self.other.saved()
        await self.one.load()
        await self.other.load()

    async def opened(self, key: tuple[str, str, str] = OWN) -> None:
        """Three failures, some here and some there."""
        for replica in (self.one, self.other, self.one):
            replica.circuits.failed([key], OVERLOADED if key[0] == "access_key" else verdict("own_credential_refused"))
            await replica.saved()
        await self.load()


@pytest.fixture
async def pair(store: Store) -> Pair:
    clock = Clock()
    common = {"created_at": clock.now(), "updated_at": clock.now()}
    async with store.write() as connection:
        user = {"id": UUID(int=1), "name": "alice", "routing_strategy": "plan_first", "is_active": True, **common}
        await connection.execute(insert(users).values(user))
        key = {"id": KEY, "user_id": UUID(int=1), "name": "laptop", "key_hash": "h", "key_prefix": "ak_", **common}
        await connection.execute(insert(access_keys).values(key))
    return Pair(store)


# -- circuits ----------------------------------------------------------------------------------------------------------


async def test_failures_on_two_replicas_are_counted_together(pair: Pair) -> None:
    for replica, failures in ((pair.one, 1), (pair.other, 2)):
        replica.circuits.failed([OWN, SHARED], OVERLOADED)
        await pair.load()
        assert await pair.one.allows()
        assert await pair.other.allows()
        async with pair.store.read() as connection:
            [row] = (await connection.execute(select(circuits))).all()
        assert len(row.failures) == failures
    pair.one.circuits.failed([OWN, SHARED], OVERLOADED)
    await pair.load()
    assert [await pair.one.allows(), await pair.other.allows()] == [False, False]
    assert pair.one.circuits.open() == pair.other.circuits.open() == 1


async def test_failures_at_the_same_moment_are_all_counted(pair: Pair) -> None:
    for replica in (pair.one, pair.other, pair.one):
        replica.circuits.failed([OWN], OVERLOADED)
    await pair.load()
    assert [await pair.one.allows(), await pair.other.allows()] == [False, False]


@pytest.mark.parametrize("key", [OWN, SHARED])
async def test_one_request_of_all_replicas_tries_an_open_circuit(pair: Pair, key: tuple[str, str, str]) -> None:
    await pair.opened(key)
    pair.forward(601)
    asked = [replica.allows() for _ in range(25) for replica in (pair.one, pair.other)]
    allowed = await asyncio.gather(*asked)
    assert sum(allowed) == 1
    trying = pair.one if allowed.index(True) % 2 == 0 else pair.other
    pair.forward(2)  # the one that was not let in asks again, in vain
    assert [await pair.one.allows(), await pair.other.allows()] == [False, False]
    trying.circuits.succeeded([OWN, SHARED])
    await pair.load()
    assert all([await replica.allows() for replica in (pair.one, pair.other) for _ in range(3)])
    async with pair.store.read() as connection:
        assert (await connection.execute(select(circuits))).all() == []


async def test_a_probe_that_fails_opens_the_circuit_for_all(pair: Pair) -> None:
    await pair.opened()
    pair.forward(601)
    assert await pair.one.allows()
    pair.one.circuits.failed([OWN, SHARED], OVERLOADED)
    await pair.load()
    pair.forward(599)
    assert [await pair.one.allows(), await pair.other.allows()] == [False, False]
    pair.forward(2)
    assert sum([await pair.one.allows(), await pair.other.allows()]) == 1


async def test_a_probe_whose_client_left_is_anothers_to_make(pair: Pair) -> None:
    await pair.opened()
    pair.forward(601)
    assert await pair.one.allows()
    assert not await pair.other.allows()
    pair.one.circuits.release([OWN, SHARED])
    await pair.load()
    pair.forward(2)
    assert await pair.other.allows()
    assert not await pair.one.allows()


async def test_a_probe_of_a_replica_that_died_is_forgotten(pair: Pair) -> None:
    await pair.opened()
    pair.forward(601)
    assert await pair.one.allows()
    pair.forward(PROBE_SECONDS - 1)
    await pair.other.load()
    assert not await pair.other.allows()
    pair.forward(2)
    assert await pair.other.allows()


async def test_when_one_of_two_circuits_stays_open_the_others_probe_is_given_back(pair: Pair) -> None:
    await pair.opened(OWN)
    pair.forward(601)
    await pair.opened(SHARED)
    assert not await pair.one.allows()
    await pair.load()
    assert await pair.other.circuits.allow([OWN])


async def test_a_reset_by_the_operator_is_seen_by_all(pair: Pair) -> None:
    await pair.opened()
    service = CircuitsService(pair.store, now=pair.clocks[0].now, on_change=lambda: None)
    [shown] = (await service.list_circuits(limit=10, cursor=None)).items
    assert (shown.state, shown.provider, shown.last_failure) == ("open", "plan", "overloaded")
    await service.reset_circuit(shown.id, Actor("admin", None, "req_1"))
    await pair.load()
    assert [await pair.one.allows(), await pair.other.allows()] == [True, True]


async def test_an_open_circuit_outlives_a_restart(pair: Pair) -> None:
    await pair.opened()
    pair.forward(300)
    clock = Clock(3.0, pair.clocks[0].passed)
    restarted = Replica(pair.store, clock)
    await restarted.load()
    assert not await restarted.allows()
    clock.passed += 301
    assert await restarted.allows()


async def test_without_the_store_a_replica_goes_by_what_it_sees() -> None:
    clock = Clock()
    alone = Replica(None, clock)
    for _ in range(3):
        alone.circuits.failed([OWN, SHARED], OVERLOADED)
    await alone.saved()
    assert not await alone.allows()
    clock.passed += 601
    assert [await alone.allows(), await alone.allows()] == [True, False]
    alone.circuits.succeeded([OWN, SHARED])
    await alone.saved()
    assert await alone.allows()


# -- what was learned, where sessions are ------------------------------------------------------------------------------


async def test_what_one_replica_learns_all_know_until_it_expires(pair: Pair) -> None:
    pair.one.compatibility.learn("us-east-1", "m", frozenset((ROUTE, PROFILE)), "reason\nwith a line")
    await pair.load()
    pair.other.compatibility.learn("us-east-1", "m", frozenset((ROUTE, Rule("beta", "b-1"))), "reason")
    await pair.load()
    for replica in (pair.one, pair.other):
        learned = replica.compatibility.rules("us-east-1", "m")
        assert learned.rules == {ROUTE, PROFILE, Rule("beta", "b-1")}
        assert replica.compatibility.rejected_profiles("us-east-1") == {PROFILE.value}
        assert not replica.compatibility.rules("eu-west-1", "m").rules
        assert not replica.compatibility.rejected_profiles("eu-west-1")
    pair.forward(3599)
    assert pair.other.compatibility.rules("us-east-1", "m").rules
    pair.forward(2)
    for replica in (pair.one, pair.other):
        assert not replica.compatibility.rules("us-east-1", "m").rules
    await pair.load()
    assert not pair.one.compatibility.rules("us-east-1", "m").rules


async def test_a_profile_that_was_refused_is_tried_again_when_the_rule_has_expired(pair: Pair) -> None:
    pair.one.compatibility.learn("us-east-1", PROFILE.value, frozenset((PROFILE,)), "invalid")
    pair.forward(3601)
    assert not pair.one.compatibility.rejected_profiles("us-east-1")


async def test_a_session_that_moved_is_where_it_is_on_all_replicas(pair: Pair) -> None:
    pair.one.sessions.moved(KEY, "s-1", "bedrock")
    pair.one.sessions.heal(KEY, "s-2", "bedrock", "drop_block")
    await pair.load()
    for replica in (pair.one, pair.other):
        assert replica.sessions.sticky(replica.sessions.find(KEY, "s-1")) == "bedrock"
        healed = replica.sessions.find(KEY, "s-2")
        assert healed is not None
        assert healed.healing == "drop_block"
        assert replica.sessions.sticky(healed) is None
        assert replica.sessions.find(UUID(int=9), "s-1") is None
    pair.forward(299)
    assert pair.other.sessions.sticky(pair.other.sessions.find(KEY, "s-1")) == "bedrock"
    pair.forward(2)
    for replica in (pair.one, pair.other):
        assert replica.sessions.sticky(replica.sessions.find(KEY, "s-1")) is None
    await pair.load()
    healed = pair.other.sessions.find(KEY, "s-2")
    assert healed is not None
    assert healed.healing == "drop_block"  # its turns are healed alike for as long as it lives


async def test_without_the_store_what_is_learned_stays_in_memory() -> None:
    alone = Replica(None, Clock())
    alone.compatibility.learn("us-east-1", "m", frozenset((ROUTE,)), "reason")
    alone.sessions.moved(KEY, "s-1", "bedrock")
    await alone.saved()
    assert alone.compatibility.rules("us-east-1", "m").rules == {ROUTE}
    assert alone.sessions.sticky(alone.sessions.find(KEY, "s-1")) == "bedrock"


# -- two whole daemons -------------------------------------------------------------------------------------------------


@dataclass
class Two:
    """Two daemons on one store: the operator talks to one, the client to the other."""

    one: RunningDaemon
    other: RunningDaemon
    plan: AnthropicSimulator
    bedrock: BedrockSimulator
    admin: httpx.AsyncClient
    client: httpx.AsyncClient

    async def ask(self, daemon: RunningDaemon, key: str, **fields: Any) -> httpx.Response:
        body = {"model": "claude-opus-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]} | fields
        return await self.client.post(f"{daemon.url}/ak/{key}/v1/messages", json=body)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait for what has to come true within a second or so."""
        started = time.monotonic()
        async with asyncio.timeout(10):
            while not await condition():
                await asyncio.sleep(0.05)
        assert time.monotonic() - started < PROPAGATES_WITHIN


@pytest.fixture
async def two(tmp_path: Path, database_url: str) -> AsyncIterator[Two]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    keys = {"PROXY_DATABASE_URL": database_url, "PROXY_LOCAL_ENCRYPTION_KEY": "00" * 32}
    async with (
        running_simulator() as (plan, plan_url),
        running_bedrock() as (bedrock, bedrock_url),
        running_daemon(tmp_path / "a", plan_url, PROXY_BEDROCK_URL=bedrock_url, **keys) as one,
        running_daemon(tmp_path / "b", plan_url, PROXY_BEDROCK_URL=bedrock_url, **keys) as other,
        httpx.AsyncClient(timeout=20) as client,
        _signed_in(one) as admin,
    ):
        yield Two(one, other, plan, bedrock, admin, client)


@asynccontextmanager
async def _signed_in(daemon: RunningDaemon) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {await daemon.admin_token()}"}
    async with httpx.AsyncClient(base_url=daemon.url, headers=headers) as client:
        yield client


async def test_a_bedrock_key_that_was_removed_is_used_by_no_replica(two: Two) -> None:
    key = await two.one.create_key(strategy="bedrock_only", bedrock=BEDROCK_API_KEY)
    assert (await two.ask(two.other, key)).headers["x-proxy-provider"] == "bedrock"
    [row] = (await two.admin.get("/admin/access-keys")).json()["items"]
    assert (await two.admin.delete(f"/admin/access-keys/{row['id']}/bedrock-key")).status_code in (200, 204)
    assert (await two.ask(two.one, key)).status_code == 502  # here at once

    async def refused() -> bool:
        return (await two.ask(two.other, key)).status_code == 502

    await two.until(refused)
    served = len(two.bedrock.log)
    assert "has no Bedrock key" in (await two.ask(two.other, key)).text
    assert len(two.bedrock.log) == served


async def test_a_changed_strategy_counts_for_the_next_request_on_every_replica(two: Two) -> None:
    key = await two.one.create_key(strategy="plan_first", bedrock=BEDROCK_API_KEY)
    assert (await two.ask(two.other, key)).headers["x-proxy-provider"] == "plan"
    [user] = (await two.admin.get("/admin/users")).json()["items"]
    changed = await two.admin.patch(f"/admin/users/{user['id']}", json={"routing_strategy": "bedrock_first"})
    assert changed.status_code == 200
    assert (await two.ask(two.one, key)).headers["x-proxy-provider"] == "bedrock"

    async def moved() -> bool:
        return (await two.ask(two.other, key)).headers["x-proxy-provider"] == "bedrock"

    await two.until(moved)


async def test_a_circuit_that_opened_on_one_replica_is_open_on_the_other_and_so_is_its_reset(two: Two) -> None:
    key = await two.one.create_key(strategy="plan_first", bedrock=BEDROCK_API_KEY)
    two.plan.script(*[Step(status=529, error_type="overloaded_error", headers={"retry-after": "600"})] * 3)
    for _ in range(3):
        assert (await two.ask(two.one, key)).headers["x-proxy-provider"] == "bedrock"

    async def is_open() -> bool:
        return (await two.ask(two.other, key)).headers.get("x-proxy-fallback-reason") == "circuit_open"

    await two.until(is_open)
    asked = len(two.plan.log)
    assert (await two.ask(two.other, key)).headers["x-proxy-provider"] == "bedrock"
    assert len(two.plan.log) == asked
    [circuit] = (await two.admin.get("/admin/circuits")).json()["items"]
    assert (await two.admin.post(f"/admin/circuits/{circuit['id']}/reset")).status_code in (200, 204)

    async def is_closed() -> bool:
        return (await two.ask(two.other, key)).headers["x-proxy-provider"] == "plan"

    await two.until(is_closed)


async def test_a_route_that_one_replica_learned_is_taken_by_the_other(two: Two) -> None:
    key = await two.one.create_key(strategy="bedrock_only", bedrock=BEDROCK_API_KEY)
    two.bedrock.script(Step(unknown_operation=True))
    assert (await two.ask(two.one, key)).status_code == 200
    assert [entry["path"].startswith("/model/") for entry in two.bedrock.log] == [False, True]

    async def invokes() -> bool:
        assert (await two.ask(two.other, key)).status_code == 200
        return str(two.bedrock.log[-1]["path"]).startswith("/model/")

    await two.until(invokes)


@pytest.mark.parametrize("value", ["", "us.anthropic.claude-opus-5-5"], ids=["unset", "set"])
async def test_a_default_model_is_deprecated_and_said_once_at_the_start(tmp_path: Path, value: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running_daemon(tmp_path, "http://127.0.0.1:9", PROXY_BEDROCK_DEFAULT_MODEL=value):
            pass
    said = [entry for entry in logs if "PROXY_BEDROCK_DEFAULT_MODEL" in entry["event"]]
    assert [entry["log_level"] for entry in said] == (["warning"] if value else [])
