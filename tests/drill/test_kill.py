"""P1 and P2: the daemon is killed at random moments under load; whatever went out is on the books once."""

import asyncio
import random
import shutil
import signal
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

CYCLES = count("CYCLES", 2)
CLIENTS = 20
PAUSE = 0.02

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1800)]


async def kill_again_and_again(asked: Asked, daemon: Daemon, *, lose_disk: bool, budget: str | None) -> None:
    """Kill the daemon under load and start it again, as many times as there are cycles."""
    moments = random.Random(20261127)
    await daemon.start()
    key = await daemon.create_key(budget=budget)
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=daemon.url, timeout=10, limits=limits) as client:
        for cycle in range(CYCLES):
            pause = PAUSE if cycle % 2 or lose_disk else 0.0
            clients = [
                asyncio.ensure_future(asked.keep_asking(client, key, cycle * CLIENTS + n, pause=pause))
                for n in range(CLIENTS)
            ]
            if cycle % 2 == 0:  # the others are killed at any moment after their start, too
                answered = len(asked.finished)
                async with asyncio.timeout(20):
                    while len(asked.finished) == answered:
                        await asyncio.sleep(0.01)
            await asyncio.sleep(moments.uniform(0.1 if lose_disk else 0.0, 0.6))
            assert await daemon.end(signal.SIGKILL) == -signal.SIGKILL
            await asyncio.wait_for(asyncio.gather(*clients), 30)
            if lose_disk:
                shutil.rmtree(daemon.data / "journal")
            await daemon.start()
    assert await daemon.end(signal.SIGTERM) == 0
    assert asked.failed == []


async def test_whatever_went_out_survives_kill_9_and_what_a_client_saw_finished_is_exact(tmp_path: Path) -> None:
    asked = Asked()
    async with running_simulator() as (simulator, plan):
        daemon = Daemon(tmp_path, plan)
        await kill_again_and_again(asked, daemon, lose_disk=False, budget=None)
    store = daemon.store()
    rows = await books(store)
    await store.aclose()
    dispatched = asked.dispatched(simulator.log)
    assert len(asked.finished) >= CYCLES // 2
    assert dispatched - set(rows) == set()
    assert [session for session, tokens in asked.finished.items() if not is_exact(rows[session], tokens)] == []
    orphans = [row for row in rows.values() if row["ended"] == "orphaned"]
    assert [row for row in orphans if not row["estimated"] or not row["cost_nano_usd"]] == []
    reported = {asked.sessions[entry["body_sha256"]]: entry["usage_sent"] for entry in simulator.log}
    for row in orphans:  # never more than the provider said, or than the text had
        usage = reported.get(row["session_id"])
        assert row["output_tokens"] <= max(usage["output_tokens"] if usage else 0, 50)  # of the 200 bytes of text
    assert not list((daemon.data / "journal").iterdir())
    print(
        f"\n{CYCLES} kills, {len(dispatched)} requests out, {len(asked.finished)} seen finished, {len(rows)} rows,"
        f" {len(orphans)} orphans, 0 lost, 0 twice"
    )


@pytest.mark.parametrize(
    ("variables", "budget"),
    [({"PROXY_LEDGER_INTENT": "database"}, None), ({"PROXY_BUDGET_SCOPE": "all"}, "500000")],
    ids=["every intent in the store", "a user with a budget"],
)
async def test_whatever_went_out_survives_kill_9_with_the_disk_lost(
    tmp_path: Path, variables: dict[str, str], budget: str | None
) -> None:
    asked = Asked()
    async with running_simulator() as (simulator, plan):
        daemon = Daemon(tmp_path, plan, **variables)
        await kill_again_and_again(asked, daemon, lose_disk=True, budget=budget)
    store = daemon.store()
    other = replica(store, "balanced", owner="another")
    later = datetime.now(UTC) + timedelta(seconds=90)
    zone = ZoneInfo("UTC")
    leases = Leases(
        store.write, other.budgets, owner="another", now=lambda: later, day_of=lambda at: day_start(at, zone)
    )
    # what counts is for the daemon to say; here it is all, or there is no counter
    other.budgets._scope = "all"
    while await leases.reap():
        pass
    rows = await books(store)
    await store.aclose()
    dispatched = asked.dispatched(simulator.log)
    assert len(dispatched) >= CYCLES // 2
    assert dispatched - set(rows) == set()
    inexact = [session for session, tokens in asked.finished.items() if not is_exact(rows[session], tokens)]
    assert {rows[session]["ended"] for session in inexact} <= {"orphaned"}
    assert all(row["estimated"] and row["cost_nano_usd"] for row in rows.values() if row["ended"] == "orphaned")
    print(
        f"\n{CYCLES} kills with the journal lost, {len(dispatched)} requests out, {len(rows)} rows, 0 missing;"
        f" of {len(asked.finished)} seen finished {len(inexact)} are estimated"
    )
