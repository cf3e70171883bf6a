"""The plan fails in the middle of Claude Code's work: Bedrock takes over, and the client never hears of it."""

from pathlib import Path

import pytest

from daemon.simulator.script import Step
from tests.e2e.client import in_full
from tests.e2e.stage import FIRST_PARTY, SECRET_LINE, FailingPlan, SelfishPlan, WatchfulBedrock, stage
from tests.gateway.test_failover import PLAN_FAILURES
from tests.support.daemon import BEDROCK_API_KEY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

# A failure of this kind concerns one request: the next one may go to the plan again.
KEEPS_ITS_PLACE = ("tier_limit",)
QUICK = ("429 with its headers", "overload after message_start", "a limit of the tier", "a reset")
OVERLOADED = PLAN_FAILURES["529"][1]
TOO_LONG_FOR_THE_TIER = PLAN_FAILURES["a limit of the tier"][1]

BEDROCK_FAILURES = {
    "throttled": ("rate_limited", "claude-opus-5-5", Step(aws_error="ThrottlingException", message="Too many tokens")),
    "throttled in the stream": ("rate_limited", "claude-sonnet-4-5", Step(exception_frame="throttlingException")),
    "a broken stream": ("cut", "claude-sonnet-4-5", Step(cut_at=150)),
    "our key refused": ("own_credential_refused", "claude-opus-5-5", Step(aws_error="AccessDeniedException")),
}


@pytest.mark.parametrize(
    "own_login", in_full((False, True), (False,)), ids=("an access key alone", "own login").__getitem__
)
async def test_every_failure_of_the_plan_in_one_session_is_made_good_by_bedrock(
    tmp_path: Path, own_login: bool
) -> None:
    failures = [
        (kind, step) for kind, step in PLAN_FAILURES.values() if not (own_login and kind == "own_credential_refused")
    ]
    # A whole answer between any two failures: each of them hits a session that is at home with the plan.
    kinds = {2 * number + 1: kind for number, (kind, _) in enumerate(failures)}
    plan = FailingPlan({2 * number + 1: step for number, (_, step) in enumerate(failures)})
    commands = 2 * len(failures)
    settings = {"PROXY_STICKY_SECONDS": "0", "PROXY_CIRCUIT_FAILURE_THRESHOLD": "1000"}
    async with stage(tmp_path, plan=plan, **settings) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        session = await running.work(key, f"[[tool-loop]] [[commands:{commands}]]", own_login=own_login)
        rows = await running.books()
    assert session.finished_well()
    assert SECRET_LINE in session.tool_results
    assert running.commands_run == [f"proxyctl-was-here-{number + 1}" for number in range(commands)]
    assert running.bedrock.refusals == 0
    assert len(rows) == commands + 2
    for number, row in enumerate(rows):
        kind = kinds.get(number)
        assert row["fallback_reason"] == kind
        tried = [(attempt["provider"], attempt["failure"]) for attempt in row["attempts"]]
        assert tried == ([("plan", kind), ("bedrock", None)] if kind else [("plan", None)])


@pytest.mark.parametrize("failure", in_full(PLAN_FAILURES, QUICK))
async def test_a_session_whose_plan_fails_on_a_later_turn_goes_on_and_stays_with_bedrock(
    tmp_path: Path, failure: str
) -> None:
    kind, step = PLAN_FAILURES[failure]
    async with stage(tmp_path, plan=FailingPlan({1: step})) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        session = await running.work(key, "[[tool-loop]] [[commands:2]]")
        rows = await running.books()
    assert session.finished_well()
    assert running.commands_run == ["proxyctl-was-here-1", "proxyctl-was-here-2"]
    later = ("plan", None) if kind in KEEPS_ITS_PLACE else ("bedrock", "sticky")
    served = [(row["provider"], row["fallback_reason"]) for row in rows]
    assert served == [("plan", None), ("bedrock", kind), later, later]
    assert len({row["session_id"] for row in rows}) == 1


async def test_a_plan_whose_circuit_is_open_is_not_asked_again(tmp_path: Path) -> None:
    settings = {"PROXY_STICKY_SECONDS": "0", "PROXY_CIRCUIT_FAILURE_THRESHOLD": "1"}
    async with stage(tmp_path, plan=FailingPlan({1: OVERLOADED}), **settings) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        session = await running.work(key, "[[tool-loop]] [[commands:3]]")
        rows = await running.books()
    assert session.finished_well()
    assert len(running.commands_run) == 3
    assert [row["fallback_reason"] for row in rows] == [None, "overloaded", *["circuit_open"] * 3]
    assert len(running.plan.log) == 2


@pytest.mark.parametrize("failure", in_full(BEDROCK_FAILURES, ("throttled in the stream",)))
async def test_the_plan_serves_when_bedrock_comes_first_and_fails(tmp_path: Path, failure: str) -> None:
    kind, model, step = BEDROCK_FAILURES[failure]
    async with stage(tmp_path) as running:
        key = await running.daemon.create_key(strategy="bedrock_first", bedrock=BEDROCK_API_KEY)
        running.bedrock.script(step)
        session = await running.work(key, "[[tool-loop]]", arguments=["--model", model])
        rows = await running.books()
    assert session.finished_well()
    assert running.commands_run == ["proxyctl-was-here"]
    served = [(row["provider"], row["fallback_reason"]) for row in rows]
    assert served == [("plan", kind), ("plan", "sticky"), ("plan", "sticky")]


@pytest.mark.parametrize("after", in_full((4, 12), (12,)))
async def test_a_failure_in_the_middle_of_an_answer_is_not_made_good_but_no_command_runs_twice(
    tmp_path: Path, after: int
) -> None:
    """Content has gone out: the client hears of it, and asks again itself."""
    broken = Step(error_event="overloaded_error", error_event_after=after)
    async with stage(tmp_path, plan=FailingPlan({1: broken})) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        session = await running.work(key, "[[tool-loop]] [[commands:2]]")
        rows = await running.daemon.records()
        assert running.bedrock.log == []
    assert (session.result["subtype"], session.result["is_error"]) == ("success", False)
    assert running.commands_run == ["proxyctl-was-here-1", "proxyctl-was-here-2"]
    assert [row["ended"] for row in rows].count("upstream_cut") == 1
    assert [row["ended"] for row in rows].count("finished") == 4


@pytest.mark.parametrize("variables", in_full(({}, FIRST_PARTY), (FIRST_PARTY,)), ids=str)
async def test_thinking_that_is_bound_to_its_conversation_survives_the_move_to_bedrock(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    plan = FailingPlan({2: OVERLOADED}, bound_thinking=True)
    async with stage(tmp_path, plan=plan, bedrock=WatchfulBedrock(bound_thinking=True)) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        session = await running.work(key, "[[tool-loop]] [[commands:4]]", **variables)
        rows = await running.books()
    assert session.finished_well()
    assert [row["provider"] for row in rows] == ["plan"] * 2 + ["bedrock"] * 4
    assert running.bedrock.refusals == 0
    thoughts = [block for message in running.bedrock.bodies[-1]["messages"] for block in message["content"]]
    assert sum(isinstance(block, dict) and block["type"] == "thinking" for block in thoughts) == 5


async def test_thinking_that_bedrock_does_not_recognise_is_left_out_after_one_refusal(tmp_path: Path) -> None:
    plan = FailingPlan({2: OVERLOADED})
    async with stage(tmp_path, plan=plan, bedrock=WatchfulBedrock(selfish=True)) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        session = await running.work(key, "[[tool-loop]] [[commands:4]]")
        rows = await running.books()
    assert session.finished_well()
    assert [row["provider"] for row in rows] == ["plan"] * 2 + ["bedrock"] * 4
    assert running.bedrock.refusals == 1


@pytest.mark.parametrize(
    ("failure", "settings"),
    [(TOO_LONG_FOR_THE_TIER, {}), (OVERLOADED, {"PROXY_STICKY_SECONDS": "0"})],
    ids=["a request that the plan has no room for", "no stickiness"],
)
async def test_a_session_that_was_at_bedrock_for_one_turn_goes_on_with_the_plan(
    tmp_path: Path, failure: Step, settings: dict[str, str]
) -> None:
    async with stage(tmp_path, plan=SelfishPlan({1: failure}), **settings) as running:
        key = await running.daemon.create_key(bedrock=BEDROCK_API_KEY)
        session = await running.work(key, "[[tool-loop]] [[commands:4]]")
        rows = await running.books()
    assert session.finished_well()
    assert [row["provider"] for row in rows] == ["plan", "bedrock", "plan", "plan", "plan", "plan"]
    assert sum(entry["status"] == 400 for entry in running.plan.log) == 1
