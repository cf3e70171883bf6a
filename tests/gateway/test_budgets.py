"""Budgets under concurrency, on both stores, with one replica and with two; and what the client is told."""

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import httpx
import pytest
from sqlalchemy import insert, select, update

from daemon.core.budget import Budget, Mode, OutputHistory, exceeded_message, prompt_bound
from daemon.core.periods import day_start
from daemon.core.pricing import price
from daemon.core.record import Ended, UsageRecord
from daemon.core.tokens import TokenCounts
from daemon.gateway import spend
from daemon.gateway.accounts import Accounts, Exchange, Tried
from daemon.gateway.admission import Admitted
from daemon.gateway.answers import Denied
from daemon.gateway.leases import Leases
from daemon.gateway.spend import Budgets
from daemon.observability.tasks import Saves
from daemon.protocol.anthropic.meter import UsageMeter
from daemon.protocol.anthropic.request import MessageFacts
from daemon.services.directory import Principal
from daemon.simulator.script import Step
from daemon.store import usage
from daemon.store.engine import Store
from daemon.store.tables import access_keys, budget_counters, intents, token_usage, users
from tests.support.daemon import BEDROCK_API_KEY, running_daemon
from tests.support.plane import SHEET
from tests.support.simulator import running_bedrock, running_simulator

ZONE = ZoneInfo("UTC")
MODEL = "claude-opus-5-5"
TRIED = Tried("bedrock", "messages", "us.anthropic.claude-opus-5-5", MODEL, "us")
BODY = b'{"messages": []}'
DOLLAR = 10**9


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no outage here."""
    monkeypatch.setattr(spend, "PATIENCE_SECONDS", 60.0)


@dataclass
class Replica:
    """One daemon's part in the budgets."""

    store: Store
    budgets: Budgets
    accounts: Accounts
    saves: Saves

    async def settle(self, record: UsageRecord) -> None:
        async with self.store.write() as connection:
            await usage.append(connection, [record], day_of=lambda at: day_start(at, ZONE), counts=self.budgets.counts)

    def intend(self, record: UsageRecord) -> None: ...


def replica(
    store: Store,
    mode: Mode,
    *,
    owner: str = "a",
    write: Any = None,
    on_store_error: str = "allowance",
    every_intent: bool = False,
) -> Replica:
    saves = Saves()
    budgets = Budgets(
        write or store.write,
        saves,
        mode=mode,
        scope="bedrock",
        zone=ZONE,
        owner=owner,
        sheet=lambda: SHEET,
        now=lambda: datetime.now(UTC),
        on_store_error=on_store_error,
        every_intent=every_intent,
        refuse_unpriced=False,
    )
    made = Replica(store, budgets, None, saves)  # type: ignore[arg-type]
    made.accounts = Accounts(
        made, sheet=lambda: SHEET, now=lambda: datetime.now(UTC), monotonic=lambda: 0.0, on_settled=budgets.learned
    )
    return made


async def user_with(store: Store, limit: int | None, period: str = "monthly") -> Principal:
    user, key, now = uuid4(), uuid4(), datetime.now(UTC)
    stamps = {"created_at": now, "updated_at": now}
    async with store.write() as connection:
        await connection.execute(
            insert(users).values(id=user, name=str(user), budget_nano_usd=limit, budget_period=period, **stamps)
        )
        await connection.execute(
            insert(access_keys).values(
                id=key, user_id=user, name="k", key_hash=key.hex * 2, key_prefix="ak_…", **stamps
            )
        )
    return Principal(user, "u", key, "k", "bedrock_only", None, None, Budget(limit, period))  # type: ignore[arg-type]


def exchange(principal: Principal, *, max_tokens: int | None = None) -> Exchange:
    return Exchange(
        request_id=f"req_{uuid4().hex}",
        admitted=Admitted(principal, ""),
        facts=MessageFacts(MODEL, stream=True, max_tokens=max_tokens, session_id=None),
        headers=(),
        body_bytes=len(BODY),
        admitted_at=datetime.now(UTC),
        started=0.0,
        tried=TRIED,
    )


async def counter(store: Store, user: UUID) -> tuple[int, int]:
    async with store.read() as connection:
        row = (
            (await connection.execute(select(budget_counters).where(budget_counters.c.user_id == user)))
            .mappings()
            .one()
        )
    return int(row["settled_nano_usd"]), int(row["reserved_nano_usd"])


async def ledger_sum(store: Store, user: UUID) -> int:
    async with store.read() as connection:
        rows = await connection.scalars(select(token_usage.c.cost_nano_usd).where(token_usage.c.user_id == user))
        return sum(rows.all())


async def serve(made: Replica, principal: Principal, output: int, *, max_tokens: int, cancelled: bool = False) -> bool:
    """One request as the data plane takes it: reserve, stream with top-ups, settle. False when it was refused."""
    asked = exchange(principal, max_tokens=max_tokens)
    outcome = await made.budgets.before(asked, TRIED, BODY, made.accounts.so_far(asked))
    if isinstance(outcome, Denied):
        assert outcome.type == "billing_error"
        return False
    meter = UsageMeter(stream=True)
    meter.take_counts(input_tokens=10, output_tokens=0, cache_read=0, cache_write=0)
    ended = Ended.FINISHED
    for produced in [*range(500, output, 500), output]:
        await asyncio.sleep(0)
        meter.take_counts(input_tokens=10, output_tokens=produced, cache_read=0, cache_write=0)
        if not await made.budgets.grow(asked, meter, lambda: made.accounts.so_far(asked, meter)):
            ended = Ended.BUDGET
            break
        if cancelled and produced > output // 2:
            ended = Ended.CLIENT_LEFT
            break
    await made.accounts.settle_answer(asked, meter, ended, status=200)
    await made.saves.finished()
    return True


STEP_NANO = price(TokenCounts(output=2_000), sheet=SHEET, provider="bedrock", model=MODEL, region="us").cost.total_nano


@pytest.mark.parametrize("mode", ["strict", "balanced"])
async def test_two_hundred_requests_at_once_stay_within_the_published_bound(
    store: Store, database_url: str, mode: Mode
) -> None:
    other = Store.open(database_url)
    replicas = [replica(store, mode)]
    if store.dialect == "postgresql":
        replicas.append(replica(other, mode, owner="b"))
    dice = random.Random(7)
    principal = await user_with(store, DOLLAR)
    outputs = [dice.randrange(1_000, 24_000) for _ in range(200)]
    served = await asyncio.gather(
        *(
            serve(dice.choice(replicas), principal, output, max_tokens=24_000, cancelled=dice.random() < 0.1)
            for output in outputs
        )
    )
    settled, reserved = await counter(store, principal.user_id)
    await other.aclose()
    assert reserved == 0
    assert settled == await ledger_sum(store, principal.user_id)
    assert 0 < sum(served) < 200
    bound = DOLLAR if mode == "strict" else DOLLAR + sum(served) * STEP_NANO
    assert settled <= bound


async def test_eight_agents_that_ask_for_64000_and_use_400_are_never_blocked_wrongly(store: Store) -> None:
    made = replica(store, "balanced")
    one = price(
        TokenCounts(input=10, output=400), sheet=SHEET, provider="bedrock", model=MODEL, region="us"
    ).cost.total_nano
    requests = 8 * 40
    principal = await user_with(store, int(requests * one / 0.8) + 8 * STEP_NANO)

    async def agent() -> int:
        return sum([await serve(made, principal, 400, max_tokens=64_000) for _ in range(40)])

    assert sum(await asyncio.gather(*(agent() for _ in range(8)))) == requests
    assert await counter(store, principal.user_id) == (requests * one, 0)


async def test_a_budget_of_nothing_blocks_everything_and_none_blocks_nothing(store: Store) -> None:
    made = replica(store, "balanced")
    assert not await serve(made, await user_with(store, 0), 10, max_tokens=10)
    unlimited = await user_with(store, None)
    assert await serve(made, unlimited, 10, max_tokens=10)


async def test_a_counter_is_made_from_what_is_on_the_books_and_a_raised_limit_holds_at_once(store: Store) -> None:
    made = replica(store, "balanced")
    principal = await user_with(store, None)
    await serve(made, principal, 20_000, max_tokens=64_000)
    spent = await ledger_sum(store, principal.user_id)
    limited = replace(principal, budget=Budget(spent, "monthly"))
    async with store.write() as connection:
        await connection.execute(update(users).where(users.c.id == principal.user_id).values(budget_nano_usd=spent))
    assert not await serve(made, limited, 10, max_tokens=10)
    async with store.write() as connection:
        await connection.execute(
            update(users).where(users.c.id == principal.user_id).values(budget_nano_usd=10 * spent)
        )
    assert await serve(made, limited, 10, max_tokens=10)


async def test_replaying_a_record_moves_no_counter_twice(store: Store) -> None:
    made = replica(store, "balanced")
    principal = await user_with(store, DOLLAR)
    asked = exchange(principal)
    assert await made.budgets.before(asked, TRIED, BODY, made.accounts.so_far(asked)) is True
    record = replace(made.accounts.so_far(asked), ended=Ended.FINISHED)
    for _ in range(3):
        await made.settle(record)
    assert await counter(store, principal.user_id) == (record.cost.total_nano, 0)


async def test_a_request_of_a_dead_replica_is_settled_once_and_flagged(store: Store) -> None:
    dead, alive = replica(store, "balanced", owner="dead"), replica(store, "balanced", owner="alive")
    principal = await user_with(store, DOLLAR)
    asked = exchange(principal)
    await dead.budgets.before(asked, TRIED, BODY, dead.accounts.so_far(asked))
    later = datetime.now(UTC) + timedelta(seconds=90)
    leases = [
        Leases(store.write, alive.budgets, owner=name, now=lambda: later, day_of=lambda at: day_start(at, ZONE))
        for name in ("alive", "third")
    ]
    assert sum(await asyncio.gather(*(lease.reap() for lease in leases))) == 1
    async with store.read() as connection:
        [row] = (await connection.execute(select(token_usage))).mappings().all()
        assert (await connection.execute(select(intents))).all() == []
    assert (row["ended"], row["estimated"], row["request_id"]) == ("orphaned", True, asked.request_id)
    assert row["cost_nano_usd"] > 0
    assert await counter(store, principal.user_id) == (row["cost_nano_usd"], 0)


async def test_a_beat_keeps_this_replicas_requests_and_counts_replicas(store: Store) -> None:
    made = replica(store, "balanced")
    asked = exchange(await user_with(store, DOLLAR))
    await made.budgets.before(asked, TRIED, BODY, made.accounts.so_far(asked))
    soon = datetime.now(UTC) + timedelta(seconds=50)
    for owner in ("a", "b"):
        await Leases(store.write, made.budgets, owner=owner, now=lambda: soon, day_of=lambda at: at).beat()
    assert made.budgets.replicas == 2
    after = Leases(store.write, made.budgets, owner="b", now=lambda: soon + timedelta(seconds=30), day_of=lambda at: at)
    assert await after.reap() == 0


@pytest.mark.parametrize(("policy", "served"), [("open", True), ("closed", False), ("allowance", False)])
async def test_while_the_store_is_away_a_budget_does_what_the_operator_chose(
    store: Store, policy: str, served: bool
) -> None:
    away = False

    @asynccontextmanager
    async def write() -> Any:
        if away:
            raise OSError("the store is away")
        async with store.write() as connection:
            yield connection

    made = replica(store, "balanced", write=write, on_store_error=policy)
    principal = await user_with(store, DOLLAR)
    away = True
    asked = exchange(principal)
    outcome = await made.budgets.before(asked, TRIED, BODY, made.accounts.so_far(asked))
    assert (outcome is False) is served
    if isinstance(outcome, Denied):
        assert (b"anthropic-ratelimit-unified-overage-disabled-reason", b"fetch_error") in outcome.headers


async def test_the_allowance_of_an_outage_is_what_was_last_known_to_be_left(store: Store) -> None:
    away = False

    @asynccontextmanager
    async def write() -> Any:
        if away:
            raise OSError("the store is away")
        async with store.write() as connection:
            yield connection

    made = replica(store, "balanced", write=write)
    principal = await user_with(store, DOLLAR // 2)

    async def ask() -> Denied | bool:
        asked = exchange(principal)
        return await made.budgets.before(asked, TRIED, BODY, made.accounts.so_far(asked))

    assert await ask() is True
    away = True
    outcomes = [await ask() for _ in range(20)]
    assert outcomes[0] is False
    assert isinstance(outcomes[-1], Denied)


# -- pure --------------------------------------------------------------------------------------------------------------


def test_expected_output_is_the_95th_percentile_between_floor_and_what_was_asked_for() -> None:
    history = OutputHistory({})
    assert history.expected("k", "m", 64_000) == 2_000
    for output in [*[400] * 95, *[9_000] * 6]:
        history.add("k", "m", output)
    assert history.expected("k", "m", 64_000) == 9_000
    assert history.expected("k", "m", 100) == 100
    assert history.expected("other", "m", None) == 2_000


def test_a_picture_is_not_paid_by_the_byte() -> None:
    assert prompt_bound(1_000_000, 999_000, 1).cache_write_1h == 455 + 1_600


# -- what the client sees ----------------------------------------------------------------------------------------------


async def test_the_client_is_told_at_the_limit_and_warned_before_it(tmp_path: Path) -> None:
    async with (
        running_simulator() as (_, plan_url),
        running_bedrock() as (bedrock, bedrock_url),
        running_daemon(tmp_path, plan_url, PROXY_BEDROCK_URL=bedrock_url, PROXY_BUDGET_CACHE_TTL="0") as daemon,
        httpx.AsyncClient(base_url=daemon.url, timeout=20) as client,
    ):
        key = await daemon.create_key(strategy="bedrock_only", bedrock=BEDROCK_API_KEY)
        admin = {"authorization": f"Bearer {await daemon.admin_token()}"}
        user = (await client.get("/admin/users", headers=admin)).json()["items"][0]["id"]
        path = f"/admin/users/{user}/budget"
        unlimited = (await client.get(f"/ak/{key}/api/oauth/usage")).json()
        assert unlimited["limits"] == []
        changed = await client.put(path, headers=admin, json={"budget_usd": "1.00", "period": "daily"})
        assert (changed.status_code, changed.json()["budget_usd"]) == (200, "1.000000000")

        async def ask() -> httpx.Response:
            body = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
            return await client.post(f"/ak/{key}/v1/messages", json=body)

        def headers(answer: httpx.Response) -> dict[str, str]:
            start = "anthropic-ratelimit-unified-"
            return {n.removeprefix(start): v for n, v in answer.headers.items() if n.startswith(start)}

        bedrock.script(Step(usage={"input": 10, "output": 36_500}))
        first = headers(await ask())
        assert (first["status"], first["overage-utilization"]) == ("allowed", "0.00")
        await daemon.runtime.ledger.flush()
        warned = headers(await ask())
        assert (warned["status"], warned["overage-surpassed-threshold"]) == ("allowed_warning", "0.75")
        bedrock.script(Step(usage={"input": 10, "output": 9_500}))
        await ask()
        await daemon.runtime.ledger.flush()
        refused = await ask()
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "billing_error"
        assert "resets on" in refused.json()["error"]["message"]
        assert (refused.headers["x-should-retry"], int(refused.headers["retry-after"]) > 0) == ("false", True)
        assert headers(refused)["overage-disabled-reason"] == "org_spend_cap_reached"
        assert headers(refused)["overage-period"] == "daily"
        assert "representative-claim" not in headers(refused)

        shown = (await client.get(f"/ak/{key}/api/oauth/usage")).json()
        assert shown["extra_usage"]["monthly_limit"] == 100
        assert shown["limits"][0]["group"] == "daily"
        assert shown["limits"][0]["percent"] == 100
        reset = datetime.fromisoformat(shown["limits"][0]["resets_at"])
        assert int(reset.timestamp()) == int(headers(refused)["reset"])
        listed = (await client.get("/admin/budgets", params={"over": 80}, headers=admin)).json()["items"]
        assert [(item["user_name"], item["exceeded"]) for item in listed] == [("alice", True)]


@pytest.mark.parametrize(
    "body",
    [
        {"budget_usd": "-1"},
        {"budget_usd": "1e3"},
        {"budget_usd": "1,000.00"},
        {"budget_usd": "１０"},
        {"budget_usd": "NaN"},
        {"budget_usd": "0.0000001"},
        {"budget_usd": "1000000"},
        {"budget_usd": 10},
        {"budget_usd": True},
        {"period": "daily"},
        {"budget_usd": "1", "period": "yearly"},
        {"budget_usd": "1", "extra": 1},
    ],
)
async def test_a_budget_that_is_none_is_refused_and_changes_nothing(tmp_path: Path, body: dict[str, Any]) -> None:
    async with (
        running_daemon(tmp_path, "http://127.0.0.1:9") as daemon,
        httpx.AsyncClient(base_url=daemon.url) as client,
    ):
        await daemon.create_key()
        admin = {"authorization": f"Bearer {await daemon.admin_token()}"}
        user = (await client.get("/admin/users", headers=admin)).json()["items"][0]["id"]
        answer = await client.put(f"/admin/users/{user}/budget", headers=admin, json=body)
        assert answer.status_code == 422
        assert answer.json()["error"]["field"]
        assert (await client.get(f"/admin/users/{user}/budget", headers=admin)).json()["budget_usd"] is None


def test_the_sentence_names_the_amount_the_reset_and_whom_to_ask() -> None:
    resets = datetime(2026, 12, 1, tzinfo=UTC)
    text = exceeded_message(12_345_670_000_000, "monthly", resets)
    assert text == (
        "Your monthly budget of $12,345.67 is used up; it resets on 2026-12-01 at 00:00 UTC. "
        "Ask your administrator if you need more before then."
    )
