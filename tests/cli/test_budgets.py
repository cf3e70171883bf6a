"""`proxyctl budgets`, and the limits of a key, against a real daemon."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.test_circuits import running_shell
from tests.cli.test_cli import Shell


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with running_shell(tmp_path) as (running, _):
        yield running


async def test_a_budget_is_set_shown_and_taken_away(shell: Shell) -> None:
    assert (await shell("users", "create", "alice")).code == 0
    done = await shell("budgets", "set", "alice", "250.50", "--period", "weekly")
    counts = "It counts what Amazon Bedrock serves (PROXY_BUDGET_SCOPE=bedrock)."
    assert (done.code, done.err) == (0, f"Updated budget of alice: $250.50 weekly. {counts}\n")
    again = await shell("budgets", "set", "alice", "250.50", "-o", "json")
    assert json.loads(again.out)["result"] == "unchanged"
    assert (await shell("budgets", "list")).out.split("\t")[:4] == ["alice", "-", "$250.50", "weekly"]
    assert (await shell("budgets", "list", "--over", "80")).out == ""
    shown = json.loads((await shell("budgets", "get", "alice", "-o", "json")).out)
    assert (shown["budget_usd"], shown["spent_usd"], shown["scope"]) == ("250.500000000", "0.000000000", "bedrock")
    assert (await shell("budgets", "clear", "alice")).err == "Updated budget of alice: none.\n"
    assert (await shell("budgets", "list")).out == ""


async def test_an_amount_that_is_none_ends_before_a_request(shell: Shell) -> None:
    for amount in ("abc", "1e9", "1,000", "1000000", "１０"):
        done = await shell("budgets", "set", "alice", amount)
        assert done.code == 2
        assert "expected dollars" in done.err


async def test_limits_of_a_key_are_set_and_taken_away(shell: Shell) -> None:
    await shell("users", "create", "alice")
    await shell("keys", "create", "alice", "--name", "laptop", "--requests-per-minute", "60", "-q")
    changed = await shell(
        "keys", "update", "alice/laptop", "--requests-per-minute", "0", "--concurrent", "8", "-o", "json"
    )
    key = json.loads(changed.out)
    assert (key["limit_requests_per_minute"], key["limit_concurrent_requests"]) == (None, 8)
    assert (await shell("keys", "update", "alice/laptop")).code == 2
