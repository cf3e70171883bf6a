"""`make bench-usage`: reports over a large generated ledger, at the admin API in this process.

Ten million rows on PostgreSQL and one million on SQLite: 1,000 and 100 users with a key and 111 requests a day each, 90
days of twelve hours, six models of which each user has a favourite, a cheap one, and one that changes daily. Rollups
are made by the daemon's own rebuild.
"""

import argparse
import asyncio
import random
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
from sqlalchemy import insert, text
from sqlalchemy.schema import CreateIndex, DropIndex

from daemon.store import migrate, rollups
from daemon.store.engine import Store
from daemon.store.tables import access_keys, token_usage, users
from tests.admin.conftest import build_plane
from tests.support import postgres

START, DAYS = datetime(2026, 1, 1, 8, tzinfo=UTC), 90
INTENSITY = 111 * DAYS  # requests of a user
NOW = START + timedelta(days=DAYS - 1, hours=12)
MODELS = (
    "claude-opus-5-5",
    "claude-sonnet-5-5",
    "claude-sonnet-4-6",
    "claude-haiku-5-5",
    "claude-opus-4-8",
    "claude-haiku-4-5",
)
UNIQUE = "uq_token_usage_request_id"
COLUMNS = """
  request_id, user_id, access_key_id, provider, model_requested, model_served, is_stream, status,
  ended, estimated, input_tokens, output_tokens, cache_write_5m_tokens, cache_read_tokens, input_cost_nano_usd,
  output_cost_nano_usd, cache_write_5m_cost_nano_usd, cache_read_cost_nano_usd, cost_nano_usd, estimated_cost_usd,
  input_cost_usd, output_cost_usd, cache_write_cost_usd, cache_read_cost_usd, attempts, session_id, request_class,
  duration_ms, first_byte_ms, admitted_at, finished_at
"""
POSTGRES_ROWS = """
INSERT INTO token_usage ({columns})
SELECT 'req_' || lpad(n::text, 32, '0'), lpad(u::text, 32, '0')::uuid, lpad((u + 10000)::text, 32, '0')::uuid,
  CASE WHEN a < 0.93 THEN 'plan' ELSE 'bedrock' END, model, model, true, CASE WHEN b < 0.01 THEN 529 ELSE 200 END,
  CASE WHEN b < 0.01 THEN 'error' ELSE 'finished' END, b > 0.99, i, o, w, r, i * 3000::bigint, o * 15000::bigint,
  w * 3750::bigint, r * 300::bigint, i * 3000::bigint + o * 15000::bigint + w * 3750::bigint + r * 300::bigint,
  (i * 0.000003 + o * 0.000015 + w * 0.00000375 + r * 0.0000003)::numeric(12, 6), (i * 0.000003)::numeric(12, 6),
  (o * 0.000015)::numeric(12, 6), (w * 0.00000375)::numeric(12, 6), (r * 0.0000003)::numeric(12, 6), '[]',
  'session-' || u || '-' || (n * {days}::bigint / {total}) || '-' || (n % 4), 'main', 4000, 700, at, at
FROM (
  SELECT n, u, a, b, i, o, w, r, at, CASE WHEN c < 0.7 THEN models[u % 3 + 1] WHEN c < 0.95 THEN models[4]
    ELSE models[1 + ((u + n * {days}::bigint / {total}) % 6)::int] END AS model
  FROM (
    SELECT n, floor({users} * power(random(), 2))::int AS u, random() AS a, random() AS b, random() AS c,
      floor(random() * 2000)::int AS i, floor(random() * 2000)::int AS o, floor(random() * 5000)::int AS w,
      floor(random() * 80000)::int AS r, {models} AS models,
      {start}::timestamptz + (n * {days}::bigint / {total}) * interval '1 day'
        + (n * {days}::numeric / {total} % 1) * interval '12 hours' AS at
    FROM generate_series({first}::bigint, {last}::bigint) AS n
  ) AS drawn
) AS rows
"""


async def people(store: Store, count: int) -> None:
    """Users in twenty teams, with a key each."""
    stamps = {"created_at": START, "updated_at": START}
    who = [{"id": UUID(f"{n:032}"), "name": f"user-{n}", "team": f"team-{n % 20}", **stamps} for n in range(count)]
    keys = [
        {"id": UUID(f"{n + 10000:032}"), "user_id": UUID(f"{n:032}"), "name": "laptop", "key_hash": f"{n:064}",
         "key_prefix": "ak_abcd", **stamps}
        for n in range(count)
    ]  # fmt: skip
    async with store.write() as connection:
        await connection.execute(insert(users), who)
        await connection.execute(insert(access_keys), keys)


async def fill_postgres(store: Store, url: str, total: int) -> None:
    """Rows by generate_series, the indexes afterwards."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    dialect = store._engine.dialect
    await connection.execute("ALTER TABLE token_usage SET UNLOGGED")
    await connection.execute(f"ALTER TABLE token_usage DROP CONSTRAINT {UNIQUE}")
    await connection.execute("ALTER TABLE token_usage DISABLE TRIGGER ALL")  # foreign keys: the ids are ours
    for index in token_usage.indexes:
        await connection.execute(str(DropIndex(index).compile(dialect=dialect)))
    models = "ARRAY[" + ", ".join(f"'{name}'" for name in MODELS) + "]"
    step = 500_000
    for first in range(0, total, step):
        last = min(first + step, total) - 1
        await connection.execute(
            POSTGRES_ROWS.format(columns=COLUMNS, first=first, last=last, total=total, days=DAYS, users=_users(total),
                                 models=models, start=f"'{START.isoformat()}'")
        )  # fmt: skip
        note(f"postgresql: {last + 1:,} rows")
    await connection.execute("SET maintenance_work_mem = '512MB'")
    for index in token_usage.indexes:
        await connection.execute(str(CreateIndex(index).compile(dialect=dialect)))
        note(f"postgresql: {index.name}")
    await connection.execute(f"ALTER TABLE token_usage ADD CONSTRAINT {UNIQUE} UNIQUE (request_id)")
    await connection.execute("ALTER TABLE token_usage ENABLE TRIGGER ALL")
    await connection.execute("VACUUM ANALYZE token_usage")
    await connection.close()


def _users(total: int) -> int:
    return max(20, total // INTENSITY)


def fill_sqlite(path: Path, total: int) -> None:
    """The same spread, drawn here."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous=OFF")
    statement = f"INSERT INTO token_usage ({COLUMNS}) VALUES ({', '.join('?' * len(COLUMNS.split(',')))})"
    connection.executemany(statement, _sqlite_rows(total))
    connection.commit()
    connection.close()


def _sqlite_rows(total: int) -> Iterator[tuple[object, ...]]:
    chance, users = random.Random(1), _users(total)
    for n in range(total):
        user = int(users * chance.random() ** 2)
        day, rest = divmod(n * DAYS, total)
        at = (START + timedelta(days=day, hours=12 * rest / total)).strftime("%Y-%m-%d %H:%M:%S.%f")
        c = chance.random()
        model = MODELS[user % 3] if c < 0.7 else MODELS[3] if c < 0.95 else MODELS[(user + day) % 6]
        i, o, w, r = (chance.randrange(most) for most in (2000, 2000, 5000, 80_000))
        costs = (i * 3000, o * 15_000, w * 3750, r * 300)
        error = chance.random() < 0.01
        yield (
            f"req_{n:032}", f"{user:032}", f"{user + 10000:032}", "plan" if chance.random() < 0.93 else "bedrock",
            model, model, 1, 529 if error else 200, "error" if error else "finished", chance.random() < 0.01,
            i, o, w, r, *costs,
            sum(costs), *(f"{cost / 1e9:.6f}" for cost in (sum(costs), *costs)), "[]", f"session-{user}-{day}-{n % 4}",
            "main", 4000, 700, at, at,
        )  # fmt: skip
        if n % 100_000 == 0:
            note(f"sqlite: {n:,} rows")


MONTH = {"period": "month"}
ODD = {"since": "2026-03-01T05:17:03Z", "until": "2026-03-30T17:44:59Z"}
CALLS: list[tuple[str, str, dict[str, str]]] = [
    ("summary, month", "/admin/usage", MONTH),
    ("summary, month by model", "/admin/usage", MONTH | {"group_by": "model"}),
    ("summary, month by user (all of them)", "/admin/usage", MONTH | {"group_by": "user"}),
    ("summary, month by team", "/admin/usage", MONTH | {"group_by": "team"}),
    ("summary, odd seconds, 29 days", "/admin/usage", ODD),
    ("summary, 90 days", "/admin/usage", {"since": "2026-01-01", "until": "2026-04-01"}),
    ("top users, month", "/admin/usage/top-users", MONTH),
    ("top users, month, series by day", "/admin/usage/top-users", MONTH | {"bucket": "day"}),
    ("series, month by day", "/admin/usage", MONTH | {"bucket": "day"}),
    ("series, month by day and model", "/admin/usage", MONTH | {"bucket": "day", "group_by": "model"}),
    ("series, 7 days by hour", "/admin/usage", {"since": "2026-03-24", "until": "2026-03-31", "bucket": "hour"}),
    ("one user, month by day", "/admin/usage", MONTH | {"user_id": str(UUID(f"{7:032}")), "bucket": "day"}),
    ("prompt cache by model, month", "/admin/usage/cache", MONTH),
    ("sessions, 1 day", "/admin/usage", {"since": "2026-03-30", "until": "2026-03-31", "group_by": "session"}),
    ("records, first page", "/admin/usage/records", {}),
    ("records of one user and month", "/admin/usage/records", MONTH | {"user_id": str(UUID(f"{7:032}"))}),
    ("records with errors", "/admin/usage/records", {"errors": "true"}),
    ("session as a tree", f"/admin/usage/sessions/session-7-{DAYS - 2}-1", {}),
]


async def measure(store: Store, rounds: int, exported: int) -> dict[str, str]:
    """Milliseconds of each call, median (and slowest), and what an export takes."""
    plane = build_plane(store)
    plane.clock.instant = NOW
    figures: dict[str, str] = {}
    token = await plane.sign_in()
    async with plane.anonymous() as client:
        client.headers["authorization"] = f"Bearer {token}"
        for name, path, query in CALLS:
            taken = []
            for _ in range(rounds):
                began = time.perf_counter()
                answer = await client.get(path, params=query)
                taken.append((time.perf_counter() - began) * 1000)
                assert answer.status_code == 200, (name, answer.text)
            figures[name] = f"{statistics.median(taken):,.0f} ({max(taken):,.0f})"
            note(f"{store.dialect}: {name} {figures[name]} ms")
    figures |= await export(plane.services.usage_export, exported)
    return figures


async def export(service: object, most: int) -> dict[str, str]:
    """Rows a second, and how much the process grew after the first ten thousand rows."""
    from daemon.services.usage_range import Span
    from daemon.store.reports import Only

    began, rows, settled = time.perf_counter(), 0, 0.0
    chunks: AsyncIterator[bytes] = await service.open(Span(), Only(), "jsonl", None)  # type: ignore[attr-defined]
    async for chunk in chunks:
        rows += chunk.count(b"\n")
        if rows >= 10_000 and not settled:
            settled = _peak_mb()
        if rows >= most:
            break
    rate = rows / (time.perf_counter() - began)
    return {
        "export, rows a second": f"{rate:,.0f}",
        f"export, growth of the peak from 10,000 to {rows:,} rows, MB": f"{_peak_mb() - settled:.1f}",
    }


def _peak_mb() -> float:
    scale = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


async def run_on(url: str, total: int, rounds: int, exported: int, path: Path | None) -> dict[str, str]:
    await asyncio.to_thread(migrate.upgrade, url)
    store = Store.open(url)
    try:
        await people(store, _users(total))
        began = time.perf_counter()
        if path is None:
            await fill_postgres(store, url, total)
        else:
            await asyncio.to_thread(fill_sqlite, path, total)
        note(f"{store.dialect}: filled in {time.perf_counter() - began:.0f} s")
        began = time.perf_counter()
        await rollups.rebuild_all(store.write, zone=ZoneInfo("UTC"), now=NOW, progress=note)
        rebuilt = time.perf_counter() - began
        if path is None:  # what autovacuum does in time; SQLite has none
            connection = await asyncpg.connect(url.replace("+asyncpg", ""))
            await connection.execute("VACUUM ANALYZE usage_aggregates")
            await connection.close()
        figures = {"rows of the ledger": f"{total:,}", "rebuild of all rollups, s": f"{rebuilt:,.0f}"}
        async with store.read() as connection:
            for bucket in ("hour", "day"):
                count = await connection.scalar(
                    text(f"SELECT count(*) FROM usage_aggregates WHERE bucket = '{bucket}'")
                )
                figures[f"rollups of {bucket}s"] = f"{count:,}"
        return figures | await measure(store, rounds, exported)
    finally:
        await store.aclose()


def note(what: str) -> None:
    sys.stderr.write(f"\r{what}\x1b[K" if sys.stderr.isatty() else f"{what}\n")
    sys.stderr.flush()


def table(results: dict[str, dict[str, str]]) -> str:
    """Markdown: a row a figure; milliseconds are medians with the slowest in brackets."""
    names = list(dict.fromkeys(name for figures in results.values() for name in figures))
    lines = [f"| figure, ms: median (slowest) | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(figures.get(name, '') for figures in results.values())} |" for name in names]
    return "\n".join(lines) + "\n"


async def run(arguments: argparse.Namespace) -> dict[str, dict[str, str]]:
    results: dict[str, dict[str, str]] = {}
    if arguments.sqlite:
        with tempfile.TemporaryDirectory(prefix="bench-usage-") as directory:
            path = Path(directory) / "bench.db"
            url = f"sqlite+aiosqlite:///{path}"
            results["SQLite"] = await run_on(url, arguments.sqlite, arguments.rounds, arguments.export, path)
    if arguments.postgres:
        with postgres.server() as server:
            connection = await asyncpg.connect(f"{server.replace('+asyncpg', '')}/postgres")
            await connection.execute("CREATE DATABASE bench_usage")
            await connection.close()
            url = f"{server}/bench_usage"
            results["PostgreSQL"] = await run_on(url, arguments.postgres, arguments.rounds, arguments.export, None)
            connection = await asyncpg.connect(f"{server.replace('+asyncpg', '')}/postgres")
            await connection.execute("DROP DATABASE bench_usage WITH (FORCE)")
            await connection.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.usage", description=__doc__)
    parser.add_argument("--postgres", type=int, default=10_000_000, help="rows on PostgreSQL, 0: not at all")
    parser.add_argument("--sqlite", type=int, default=1_000_000, help="rows on SQLite, 0: not at all")
    parser.add_argument("--rounds", type=int, default=7, help="times each call is made")
    parser.add_argument("--export", type=int, default=200_000, help="rows exported")
    sys.stdout.write(table(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
