"""The runaway guard: off unless set, refusing in the client's terms, forgetting after a minute."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from daemon.core.limits import KeyLimits, Over, Recent
from daemon.core.tokens import TokenCounts
from daemon.gateway.answers import Denied
from daemon.gateway.guard import Guard
from daemon.services.directory import Principal
from tests.factories import usage_record
from tests.support.daemon import running_daemon
from tests.support.simulator import running_simulator

PRINCIPAL = Principal(UUID(int=1), "alice", UUID(int=2), "laptop", "plan_first", None)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def guarded(limits: KeyLimits, *, replicas: int = 1) -> tuple[Guard, Clock, Callable[[], Denied | None]]:
    clock = Clock()
    guard = Guard(replicas=lambda: replicas, monotonic=clock)
    principal = replace(PRINCIPAL, limits=limits)
    return guard, clock, lambda: guard.enter(principal)


def test_a_key_without_limits_is_never_refused() -> None:
    _, _, enter = guarded(KeyLimits())
    assert [enter() for _ in range(1000)] == [None] * 1000


def test_requests_in_a_minute_are_counted_and_the_refusal_says_when_to_come_back() -> None:
    _, clock, enter = guarded(KeyLimits(requests_per_minute=2))
    assert enter() is None
    clock.now += 20
    assert enter() is None
    refused = enter()
    assert refused is not None
    assert (refused.status, refused.type, refused.headers) == (429, "rate_limit_error", ((b"retry-after", b"40"),))
    clock.now += 40
    assert enter() is None


def test_requests_at_once_are_counted_until_they_end() -> None:
    guard, _, enter = guarded(KeyLimits(concurrent_requests=1))
    assert enter() is None
    assert enter() is not None
    guard.leave(replace(PRINCIPAL, limits=KeyLimits(concurrent_requests=1)))
    assert enter() is None


def test_tokens_of_a_minute_are_prompt_and_answer() -> None:
    guard, clock, enter = guarded(KeyLimits(tokens_per_minute=100))
    assert enter() is None
    guard.used(usage_record(access_key_id=UUID(int=2), tokens=TokenCounts(input=40, output=50, cache_read=20)))
    refused = enter()
    assert refused is not None
    assert "100 tokens per minute" in refused.message
    clock.now += 60
    assert enter() is None


def test_replicas_share_a_limit() -> None:
    _, _, enter = guarded(KeyLimits(requests_per_minute=3), replicas=2)
    assert [enter() is None for _ in range(3)] == [True, True, False]


def test_what_is_over_is_forgotten() -> None:
    recent = Recent()
    recent.begin(0.0)
    recent.used(5, 0.0)
    recent.end()
    assert recent.check(KeyLimits(requests_per_minute=1), 1.0) == Over("1 requests per minute", 59)
    assert recent.idle(60.0)
    assert recent.token_sum == 0


async def test_a_limit_set_by_an_operator_holds_from_the_next_request_on(tmp_path: Path) -> None:
    async with (
        running_simulator() as (_, plan_url),
        running_daemon(tmp_path, plan_url) as daemon,
        httpx.AsyncClient(base_url=daemon.url, timeout=20) as client,
    ):
        key = await daemon.create_key()
        admin = {"authorization": f"Bearer {await daemon.admin_token()}"}
        found = (await client.get("/admin/access-keys", headers=admin)).json()["items"][0]
        path = f"/admin/access-keys/{found['id']}"
        body = {"model": "claude-opus-5-5", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
        assert (await client.post(f"/ak/{key}/v1/messages", json=body)).status_code == 200
        changed = await client.patch(path, headers=admin, json={"limit_requests_per_minute": 1})
        assert (changed.status_code, changed.json()["limit_requests_per_minute"]) == (200, 1)
        assert (await client.post(f"/ak/{key}/v1/messages", json=body)).status_code == 200
        refused = await client.post(f"/ak/{key}/v1/messages", json=body)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) <= 60
        assert (await client.post(f"/ak/{key}/v1/messages/count_tokens", json=body)).status_code == 200
        await client.patch(path, headers=admin, json={"limit_requests_per_minute": None})
        assert (await client.post(f"/ak/{key}/v1/messages", json=body)).status_code == 200
        stale = await client.patch(path, headers=admin | {"if-match": '"1"'}, json={"name": "x"})
        assert stale.status_code == 409


@pytest.mark.parametrize("value", [0, -1, "10", 1.5, True, 10**10])
async def test_a_limit_that_is_none_is_refused(tmp_path: Path, value: object) -> None:
    async with (
        running_daemon(tmp_path, "http://127.0.0.1:9") as daemon,
        httpx.AsyncClient(base_url=daemon.url) as client,
    ):
        await daemon.create_key()
        admin = {"authorization": f"Bearer {await daemon.admin_token()}"}
        found = (await client.get("/admin/access-keys", headers=admin)).json()["items"][0]
        answer = await client.patch(
            f"/admin/access-keys/{found['id']}", headers=admin, json={"limit_concurrent_requests": value}
        )
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "limit_concurrent_requests")
