"""The plan fails in the middle of Claude Code's work: Bedrock takes over, and the client never hears of it."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.anthropic import AnthropicSimulator
from daemon.simulator.base import Request
from daemon.simulator.bedrock import BedrockSimulator
from daemon.simulator.script import Step
from tests.e2e.client import Session, assert_books_equal_logs, bearer, run_claude
from tests.gateway.test_failover import PLAN_FAILURES
from tests.support.daemon import BEDROCK_API_KEY, RunningDaemon, running_daemon
from tests.support.simulator import running_bedrock, running_simulator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

QUICK = bool(os.environ.get("E2E_QUICK"))
DEADLINES = {"PROXY_FIRST_BYTE_TIMEOUT": "3", "PROXY_CONNECT_TIMEOUT": "3", "PROXY_WHOLE_ANSWER_TIMEOUT": "6"}
# These concern one request: the next one may go to the plan again.
KEEPS_ITS_PLACE = ("tier_limit",)
LATER = ("429 with its headers", "overload after message_start", "a limit of the tier", "a reset")


class FailingPlan(AnthropicSimulator):
    """Plays the scenario but for the requests, counted from 0, that are said to fail."""

    def __init__(self, failures: Mapping[int, Step], *, bound_thinking: bool = False) -> None:
        super().__init__(bound_thinking=bound_thinking)
        self._failures = failures
        self._asked = 0

    def next_step(self, request: Request, body: Mapping[str, Any]) -> Step:
        played = super().next_step(request, body)
        failure = self._failures.get(self._asked)
        self._asked += 1
        if failure is None:
            return played
        if failure.error_event_after is not None:  # it fails on its way to the real answer
            return replace(played, error_event=failure.error_event, error_event_after=failure.error_event_after)
        return failure


@dataclass
class Stage:
    """A daemon between both simulated providers, and the files of one session."""

    daemon: RunningDaemon
    plan: AnthropicSimulator
    bedrock: BedrockSimulator
    directory: Path

    @property
    def commands_run(self) -> list[str]:
        """The lines that the session's commands left, in their order."""
        return (self.directory / "commands.log").read_text().split()

    async def tool_loop(self, commands: int, **variables: str) -> Session:
        (self.directory / "notes.txt").write_text("the file was read\n")
        prompt = (
            f"[[tool-loop]] [[commands:{commands}]] [[log:{self.directory}/commands.log]] "
            f"[[file:{self.directory}/notes.txt]]"
        )
        return await run_claude(self.directory / "home", prompt, **variables)


@asynccontextmanager
async def stage(
    tmp_path: Path, failures: Mapping[int, Step], *, bedrock: BedrockSimulator | None = None, **variables: str
) -> AsyncIterator[Stage]:
    async with (
        running_simulator(FailingPlan(failures)) as (plan, plan_url),
        running_bedrock(bedrock) as (simulated, bedrock_url),
        running_daemon(tmp_path, plan_url, PROXY_BEDROCK_URL=bedrock_url, **(DEADLINES | variables)) as daemon,
    ):
        yield Stage(daemon, plan, simulated, tmp_path)


@pytest.mark.parametrize("login", ["an access key alone", "the user's own login"])
async def test_every_failure_of_the_plan_in_one_session_is_made_good_by_bedrock(tmp_path: Path, login: str) -> None:
    failures = {
        name: (kind, step)
        for name, (kind, step) in PLAN_FAILURES.items()
        if not (login == "the user's own login" and kind == "own_credential_refused")
    }
    # A whole answer between any two failures: each of them hits a session that is at home with the plan.
    failing = {2 * number + 1: step for number, (_, step) in enumerate(failures.values())}
    kinds = {2 * number + 1: kind for number, (kind, _) in enumerate(failures.values())}
    commands = 2 * len(failures)
    async with stage(tmp_path, failing, PROXY_STICKY_SECONDS="0", PROXY_CIRCUIT_FAILURE_THRESHOLD="1000") as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        variables = bearer(running.daemon.url, key)
        if login == "the user's own login":
            variables = bearer(f"{running.daemon.url}/ak/{key}", "the-users-own-login")
        session = await running.tool_loop(commands, **variables)
        rows = await running.daemon.records()
    assert session.finished_well()
    assert "the file was read" in session.tool_results
    assert running.commands_run == [f"proxyctl-was-here-{number + 1}" for number in range(commands)]
    assert len(rows) == commands + 2
    for number, row in enumerate(rows):
        kind = kinds.get(number)
        tried = [(attempt["provider"], attempt["failure"]) for attempt in row["attempts"] if attempt["status"] != 400]
        assert row["fallback_reason"] == kind
        assert tried[-1] == ("bedrock" if kind else "plan", None)
    assert_books_equal_logs(rows, plan=running.plan, bedrock=running.bedrock)


@pytest.mark.parametrize("failure", [name for name in PLAN_FAILURES if not QUICK or name in LATER])
async def test_a_session_whose_plan_fails_on_a_later_turn_goes_on_and_stays_with_bedrock(
    tmp_path: Path, failure: str
) -> None:
    kind, step = PLAN_FAILURES[failure]
    async with stage(tmp_path, {1: step}) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        session = await running.tool_loop(2, **bearer(running.daemon.url, key))
        rows = await running.daemon.records()
    assert session.finished_well()
    assert running.commands_run == ["proxyctl-was-here-1", "proxyctl-was-here-2"]
    stays = kind not in KEEPS_ITS_PLACE
    later = ("bedrock", "sticky") if stays else ("plan", None)
    assert [(row["provider"], row["fallback_reason"]) for row in rows] == [
        ("plan", None),
        ("bedrock", kind),
        later,
        later,
    ]
    assert len({row["session_id"] for row in rows}) == 1
    assert_books_equal_logs(rows, plan=running.plan, bedrock=running.bedrock)
