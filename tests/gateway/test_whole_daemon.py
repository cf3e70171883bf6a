"""The daemon as it runs: admin API, data plane, journal, store."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from daemon.runtime import Runtime
from daemon.secrets_store import load_secrets
from daemon.settings import Settings, load_settings
from daemon.simulator.script import Step
from daemon.store.lock import AlreadyRunning
from tests.support.daemon import running_daemon
from tests.support.simulator import running_simulator

REQUEST = {
    "model": "claude-opus-5-5",
    "max_tokens": 50,
    "stream": True,
    "messages": [{"role": "user", "content": "hi"}],
}


async def test_a_streamed_request_ends_up_on_the_books_to_the_token(tmp_path: Path, database_url: str) -> None:
    async with (
        running_simulator() as (simulator, plan),
        running_daemon(tmp_path, plan, PROXY_DATABASE_URL=database_url) as daemon,
    ):
        key = await daemon.create_key()
        simulator.script(
            Step(usage={"input": 11, "output": 7, "cache_write_5m": 5, "cache_write_1h": 3, "cache_read": 9})
        )
        headers = {"authorization": f"Bearer {await daemon.admin_token()}"}
        async with httpx.AsyncClient(base_url=daemon.url) as client:
            answer = await client.post(f"/ak/{key}/v1/messages?beta=true", json=REQUEST)
            assert answer.status_code == 200
            assert "message_stop" in answer.text
            await daemon.runtime.ledger.flush()
            [record] = (await client.get("/admin/usage/records", headers=headers)).json()["items"]
            summary = (await client.get("/admin/usage", headers=headers)).json()
        assert record["request_id"] == answer.headers["request-id"]
        tokens = {
            name: record[f"{name}_tokens"]
            for name in ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")
        }
        assert tokens == {"input": 11, "output": 7, "cache_write_5m": 5, "cache_write_1h": 3, "cache_read": 9}
        assert record["cost_nano_usd"] == 11 * 4000 + 7 * 20_000 + 5 * 5000 + 3 * 8000 + 9 * 200
        assert summary["totals"]["cost_nano_usd"] == record["cost_nano_usd"]


async def test_no_header_however_long_keeps_a_request_off_the_books(tmp_path: Path, database_url: str) -> None:
    names = ("session-id", "agent-id", "parent-agent-id", "request-class", "prompt-id")
    async with (
        running_simulator() as (_, plan),
        running_daemon(tmp_path, plan, PROXY_DATABASE_URL=database_url) as daemon,
    ):
        key = await daemon.create_key()
        headers = {"authorization": f"Bearer {await daemon.admin_token()}"}
        long = {f"x-claude-code-{name}": "x" * 1000 for name in names}
        async with httpx.AsyncClient(base_url=daemon.url) as client:
            answer = await client.post(f"/ak/{key}/v1/messages", json=REQUEST, headers=long)
            await daemon.runtime.ledger.flush()
            [record] = (await client.get("/admin/usage/records", headers=headers)).json()["items"]
        assert record["request_id"] == answer.headers["request-id"]


async def test_a_revoked_key_stops_at_once(tmp_path: Path) -> None:
    async with running_simulator() as (_, plan), running_daemon(tmp_path, plan) as daemon:
        key = await daemon.create_key()
        headers = {"authorization": f"Bearer {await daemon.admin_token()}"}
        async with httpx.AsyncClient(base_url=daemon.url) as client:
            assert (await client.post(f"/ak/{key}/v1/messages", json=REQUEST)).status_code == 200
            [user] = (await client.get("/admin/users", headers=headers)).json()["items"]
            [row] = (await client.get(f"/admin/users/{user['id']}/access-keys", headers=headers)).json()["items"]
            assert (await client.delete(f"/admin/access-keys/{row['id']}", headers=headers)).status_code in (200, 204)
            assert (await client.post(f"/ak/{key}/v1/messages", json=REQUEST)).status_code == 401


async def test_a_key_revoked_on_one_replica_stops_on_the_other(tmp_path: Path, database_url: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with (
        running_simulator() as (_, plan),
        running_daemon(tmp_path / "a", plan, PROXY_DATABASE_URL=database_url) as one,
        running_daemon(tmp_path / "b", plan, PROXY_DATABASE_URL=database_url) as other,
    ):
        key = await one.create_key()
        headers = {"authorization": f"Bearer {await one.admin_token()}"}
        async with httpx.AsyncClient(base_url=one.url, headers=headers) as admin, httpx.AsyncClient() as client:
            url = f"{other.url}/ak/{key}/v1/messages"
            assert (await client.post(url, json=REQUEST)).status_code == 200
            [row] = (await admin.get("/admin/access-keys")).json()["items"]
            assert (await admin.delete(f"/admin/access-keys/{row['id']}")).status_code == 200
            async with asyncio.timeout(5):
                while (await client.post(url, json=REQUEST)).status_code != 401:
                    await asyncio.sleep(0.05)


async def test_a_key_created_after_it_was_refused_works_at_once(tmp_path: Path) -> None:
    async with running_simulator() as (_, plan), running_daemon(tmp_path, plan) as daemon:
        key = await daemon.create_key()
        headers = {"authorization": f"Bearer {await daemon.admin_token()}"}
        async with httpx.AsyncClient(base_url=daemon.url) as client:
            [user] = (await client.get("/admin/users", headers=headers)).json()["items"]
            [row] = (await client.get(f"/admin/users/{user['id']}/access-keys", headers=headers)).json()["items"]
            rotated = await client.post(
                f"/admin/access-keys/{row['id']}/rotate", json={"grace_seconds": 0}, headers=headers
            )
            new = rotated.json()["access_key"]
            assert (await client.post(f"/ak/{new}/v1/messages", json=REQUEST)).status_code == 200
            assert (await client.post(f"/ak/{key}/v1/messages", json=REQUEST)).status_code == 401


async def test_the_caller_sees_its_spending_in_cents(tmp_path: Path) -> None:
    async with running_simulator() as (simulator, plan), running_daemon(tmp_path, plan) as daemon:
        key = await daemon.create_key()
        simulator.script(Step(usage={"input": 1, "output": 100_000}))
        async with httpx.AsyncClient(base_url=daemon.url) as client:
            await client.post(f"/ak/{key}/v1/messages", json=REQUEST)
            await daemon.runtime.ledger.flush()
            document = (await client.get(f"/ak/{key}/api/oauth/usage")).json()
        assert document["extra_usage"]["used_credits"] == 200.0
        assert document["limits"] == []


async def test_parallel_requests_are_all_recorded_once(tmp_path: Path, database_url: str) -> None:
    async with (
        running_simulator() as (simulator, plan),
        running_daemon(tmp_path, plan, PROXY_DATABASE_URL=database_url) as daemon,
    ):
        key = await daemon.create_key()
        async with httpx.AsyncClient(base_url=daemon.url, limits=httpx.Limits(max_connections=40)) as client:
            answers = await asyncio.gather(*(client.post(f"/ak/{key}/v1/messages", json=REQUEST) for _ in range(120)))
        await daemon.runtime.ledger.flush()
        assert {answer.status_code for answer in answers} == {200}
        assert daemon.runtime.ledger.written == 120 == len(simulator.log)


async def test_readiness_and_health_need_no_key(tmp_path: Path) -> None:
    async with (
        running_daemon(tmp_path, "http://127.0.0.1:9") as daemon,
        httpx.AsyncClient(base_url=daemon.url) as client,
    ):
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).status_code == 200
        daemon.runtime.drain()
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200


async def test_an_unreachable_provider_is_an_error_with_a_name(tmp_path: Path) -> None:
    async with (
        running_daemon(tmp_path, "http://127.0.0.1:9") as daemon,
        httpx.AsyncClient(base_url=daemon.url) as client,
    ):
        key = await daemon.create_key()
        answer = await client.post(f"/ak/{key}/v1/messages", json=REQUEST)
        assert answer.status_code == 502
        assert "127.0.0.1:9" in json.loads(answer.content)["error"]["message"]


async def test_a_second_daemon_on_the_same_directory_does_not_start(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, "http://127.0.0.1:9") as daemon:
        keys = load_secrets(daemon.settings, lambda _: "")
        assert not isinstance(keys, list)
        with pytest.raises(AlreadyRunning, match="PROXY_DATA_DIR"):
            await Runtime(daemon.settings, keys).start()


def test_first_start_on_sqlite_makes_secrets_once_and_for_their_owner(tmp_path: Path) -> None:
    settings = load_settings({"PROXY_DATA_DIR": str(tmp_path / "data")})
    assert isinstance(settings, Settings)
    first = load_secrets(settings, lambda password: f"hash of {password}")
    again = load_secrets(settings, lambda password: f"hash of {password}")
    assert not isinstance(first, list)
    assert not isinstance(again, list)
    assert first.new_admin_password is not None
    assert first.admin_password_hash == f"hash of {first.new_admin_password}"
    assert again.new_admin_password is None
    assert (again.jwt_secret, again.key_hasher_secret) == (first.jwt_secret, first.key_hasher_secret)
    assert (tmp_path / "data" / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_on_postgresql_nothing_is_generated(tmp_path: Path) -> None:
    url = "postgresql+asyncpg://u:p@127.0.0.1/db"
    settings = load_settings({"PROXY_DATA_DIR": str(tmp_path), "PROXY_DATABASE_URL": url})
    assert isinstance(settings, Settings)
    problems = load_secrets(settings, lambda _: "")
    assert isinstance(problems, list)
    assert [problem.variable for problem in problems] == [
        "PROXY_KEY_HASHER_SECRET",
        "PROXY_JWT_SECRET",
        "PROXY_ADMIN_PASSWORD_HASH",
    ]
    assert list(tmp_path.iterdir()) == []
