"""The real Claude Code at the limit of its budget: it says so in our words, and asks once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.protocol.asgi import Message, Receive, Scope, Send
from daemon.simulator.script import Step
from tests.e2e.client import Session, bearer, claude_ended, in_full
from tests.e2e.stage import Stage, stage
from tests.support.daemon import BEDROCK_API_KEY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MODEL = "claude-opus-5-5"
LIMIT = "40.00"
PERCENT_OF_OUTPUT = 18_200  # tokens of the model above, about
# One that has an address and a key only, and one that knows it speaks to a gateway.
CLIENTS: dict[str, dict[str, str]] = {"a plain client": {}, "a gateway's client": {"CLAUDE_CODE_USE_GATEWAY": "1"}}
PREFIX = "anthropic-ratelimit-unified-"


@dataclass
class Budgeted:
    """A stage whose one user has a daily budget, and what the daemon was asked and answered."""

    stage: Stage
    key: str
    answers: list[tuple[str, int, dict[str, str]]]

    def asked(self, path: str) -> list[tuple[int, dict[str, str]]]:
        """Status and budget headers of the answers to a path."""
        return [(status, headers) for asked, status, headers in self.answers if asked == path]

    async def ask(self, prompt: str, variables: dict[str, str], *, fails: bool = False) -> Session:
        """One session of Claude Code, as patient as it is by default."""
        environment = bearer(self.stage.daemon.url, self.key) | {"CLAUDE_CODE_MAX_RETRIES": "10"} | variables
        home = self.stage.directory / "home"
        session, code, said = await claude_ended(home, prompt, ["--model", MODEL], environment)
        assert code == int(fails), said
        return session

    async def spend(self, percent: int) -> None:
        """Spend a part of the budget, with one request."""
        self.stage.bedrock.script(Step(usage={"input": 10, "output": percent * PERCENT_OF_OUTPUT}))
        body = {"model": MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
        async with httpx.AsyncClient(base_url=self.stage.daemon.url, timeout=20) as client:
            answer = await client.post(f"/ak/{self.key}/v1/messages", json=body)
            answer.raise_for_status()
        await self.stage.daemon.runtime.ledger.flush()
        self.answers.clear()


@asynccontextmanager
async def budgeted(tmp_path: Path) -> AsyncIterator[Budgeted]:
    async with stage(tmp_path, PROXY_BUDGET_CACHE_TTL="0") as running:
        key = await running.daemon.create_key(strategy="bedrock_only", bedrock=BEDROCK_API_KEY)
        headers = {"authorization": f"Bearer {await running.daemon.admin_token()}"}
        async with httpx.AsyncClient(base_url=running.daemon.url, headers=headers) as client:
            user = (await client.get("/admin/users")).json()["items"][0]["id"]
            budget = {"budget_usd": LIMIT, "period": "daily"}
            (await client.put(f"/admin/users/{user}/budget", json=budget)).raise_for_status()
        made = Budgeted(running, key, [])
        _listen(running, made.answers)
        yield made


def _listen(running: Stage, answers: list[tuple[str, int, dict[str, str]]]) -> None:
    """Note what the data plane answers."""
    application = running.daemon.runtime.app
    plane: Any = application._data_plane

    async def listening(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = {name.decode(): value.decode() for name, value in message["headers"]}
                told = {name.removeprefix(PREFIX): value for name, value in named.items() if name.startswith(PREFIX)}
                answers.append((path, message["status"], told))
            await send(message)

        await plane(scope, receive, noting)

    application._data_plane = listening  # type: ignore[assignment]


@pytest.mark.parametrize("client", in_full(CLIENTS, ("a plain client",)))
async def test_at_the_limit_it_shows_our_sentence_and_asks_exactly_once(tmp_path: Path, client: str) -> None:
    async with budgeted(tmp_path) as budget:
        await budget.spend(101)
        served = len(budget.stage.bedrock.log)
        async with asyncio.timeout(30):
            session = await budget.ask("hello", CLIENTS[client], fails=True)
        rows = await budget.stage.daemon.records()
        assert len(budget.stage.bedrock.log) == served
    assert session.result["is_error"] is True
    assert "Your daily budget of $40.00 is used up; it resets on" in session.result["result"]
    assert "at 00:00 UTC" in session.result["result"]
    assert [event for event in session.events if event.get("subtype") == "api_retry"] == []
    [(status, told)] = budget.asked("/v1/messages")
    assert (status, told["status"], told["overage-disabled-reason"]) == (429, "rejected", "org_spend_cap_reached")
    refused = [row for row in rows if row["status"] == 429]
    assert [(row["ended"], row["cost_nano_usd"]) for row in refused] == [("error", 0)]


@pytest.mark.parametrize("client", in_full(CLIENTS, ("a gateway's client",)))
async def test_past_three_quarters_and_ninety_five_percent_it_is_told(tmp_path: Path, client: str) -> None:
    async with budgeted(tmp_path) as budget:
        for spent, status, passed in (
            (10, "allowed", None),
            (68, "allowed_warning", "0.75"),
            (18, "allowed_warning", "0.95"),
        ):
            await budget.spend(spent)
            session = await budget.ask("hello", CLIENTS[client])
            assert session.finished_well()
            [(answered, told)] = budget.asked("/v1/messages")
            assert (answered, told["status"], told.get("overage-surpassed-threshold")) == (200, status, passed)
            heard = [event["rate_limit_info"] for event in session.events if event["type"] == "rate_limit_event"]
            understood = [(status, int(told["reset"]))] if CLIENTS[client] else []  # a plain client takes no notice
            assert [(info["status"], info["resetsAt"]) for info in heard] == understood


async def test_a_client_that_knows_its_gateway_shows_what_is_spent(tmp_path: Path) -> None:
    async with budgeted(tmp_path) as budget:
        await budget.spend(54)
        session = await budget.ask("/usage", CLIENTS["a gateway's client"])
        assert [status for status, _ in budget.asked("/api/oauth/usage")] == [200]
    assert "/ $40.00 spent today (54%)" in session.result["result"]
    assert "resets" in session.result["result"]
