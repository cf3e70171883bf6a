"""P9: PostgreSQL goes away under load; known keys are served, and afterwards nothing is missing and nothing twice."""

import asyncio
import random
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import httpx
import pytest

from daemon.store import migrate
from daemon.store.engine import Store
from tests.drill.rig import Asked, books, count, create_key, is_exact
from tests.support import postgres
from tests.support.daemon import running_daemon
from tests.support.simulator import running_simulator

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]

SECONDS = count("OUTAGE_SECONDS", 4)
CLIENTS = 8
RESTART = (lambda server: server.stop(signal.SIGQUIT), postgres.Server.start)  # immediate: it recovers at its start
FREEZE = (postgres.Server.freeze, postgres.Server.thaw)


async def _migrated(server: postgres.Server, name: str) -> str:
    connection = await asyncpg.connect(f"{server.url.replace('+asyncpg', '')}/postgres")
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    url = f"{server.url}/{name}"
    await asyncio.to_thread(migrate.upgrade, url)
    return url


@pytest.mark.parametrize("outage", [RESTART, FREEZE], ids=["stopped at once", "frozen"])
async def test_an_outage_of_postgresql_is_not_noticed_and_loses_nothing(
    tmp_path: Path, outage: tuple[Callable[[postgres.Server], None], Callable[[postgres.Server], None]]
) -> None:
    begin, end = outage
    asked = Asked()
    moving = True
    loop = asyncio.get_running_loop()
    with postgres.private_server() as server:
        url = await _migrated(server, "drill")
        async with (
            running_simulator() as (simulator, plan),
            running_daemon(tmp_path, plan, PROXY_DATABASE_URL=url, PROXY_BUDGET_SCOPE="all") as daemon,
            httpx.AsyncClient(base_url=daemon.url, timeout=30) as client,
        ):
            keys = [await create_key(daemon.url, "plain"), await create_key(daemon.url, "budgeted", budget="1000")]

            async def keep_asking(number: int) -> None:
                numbers = random.Random(number)
                while moving:
                    await asked.ask(client, keys[number % 2], numbers)
                    await asyncio.sleep(0.1)

            load = [asyncio.ensure_future(keep_asking(number)) for number in range(CLIENTS)]
            await asyncio.sleep(1.5)
            before, known = len(asked.finished), len(asked.seconds)
            await asyncio.to_thread(begin, server)
            await asyncio.sleep(SECONDS)
            during, waited = len(asked.finished) - before, sorted(asked.seconds[known:])
            pending = daemon.runtime.ledger.pending
            await asyncio.to_thread(end, server)
            back = loop.time()
            await asyncio.sleep(1.0)
            async with asyncio.timeout(30):
                await daemon.runtime.ledger.flush()
            caught_up = loop.time() - back
            moving = False
            await asyncio.gather(*load)
            await daemon.runtime.ledger.flush()
        store = Store.open(url)
        rows = await books(store)
        await store.aclose()
    assert asked.failed == []
    assert during > 0
    assert set(asked.finished) - set(rows) == set()
    assert set(rows) == asked.dispatched(simulator.log)
    assert [session for session, tokens in asked.finished.items() if not is_exact(rows[session], tokens)] == []
    assert not list((daemon.settings.data_dir / "journal").iterdir())  # type: ignore[operator]
    print(
        f"\n{SECONDS} s away, {during} answers meanwhile, 0 errors, {pending} records waiting at its end,"
        f" caught up {caught_up:.1f} s after; p50 {waited[len(waited) // 2] * 1000:.0f} ms,"
        f" p99 {waited[int(len(waited) * 0.99)] * 1000:.0f} ms; {len(rows)} rows"
    )
