"""`proxyctl models` against a real daemon."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.test_circuits import running_shell
from tests.cli.test_cli import Shell, proxyctl

EU, US = "eu.anthropic.claude-opus-5-5", "us.anthropic.claude-opus-5-5"


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Shell]:
    async with running_shell(tmp_path) as (shell, _):
        yield shell


async def test_the_life_of_a_mapping(cli: Shell) -> None:
    created = await cli("models", "map", "claude-opus-5-5[1m]", EU, "-o", "json")
    mapping = json.loads(created.out)
    assert (created.code, mapping["result"], mapping["claude_model"]) == (0, "created", "claude-opus-5-5")

    again = await cli("models", "map", "claude-opus-5-5", US)
    assert (again.code, again.out, "--if-exists update" in again.err) == (5, "", True)
    for choice, target, result in (("skip", US, "unchanged"), ("update", EU, "unchanged"), ("update", US, "updated")):
        done = await cli("models", "map", "claude-opus-5-5[1m]", target, "--if-exists", choice, "-o", "json")
        assert (done.code, json.loads(done.out)["result"]) == (0, result)
    refused = await cli("models", "map", "claude-x", "arn:aws:s3:::bucket")
    assert (refused.code, "expected a Bedrock id" in refused.err) == (7, True)
    unpriced = await cli("models", "map", "claude-x", "us.anthropic.claude-nobody-9", "-q")
    assert (unpriced.code, len(unpriced.out)) == (0, 37)

    listed = await cli("models", "list")
    assert listed.out.splitlines()[0].split("\t")[:6] == ["claude-opus-5-5", US, "database", "messages", "yes", "yes"]
    assert f"claude-opus-5-5\t{US.removeprefix('us.')}\tpackaged\tmessages\tno\tyes" in listed.out

    assert (await cli("models", "unmap", "claude-opus-5-5[1m]")).code == 0
    missing = await cli("models", "unmap", "claude-opus-5-5")
    assert (missing.code, "models list" in missing.err) == (3, True)
    assert (await cli("models", "unmap", "claude-opus-5-5", "--if-missing", "skip")).code == 0


async def test_a_model_is_explained_for_a_user_and_a_key(cli: Shell) -> None:
    await cli("users", "create", "alice", "--strategy", "bedrock_first")
    await cli("keys", "create", "alice", "--name", "laptop", "-q")
    found = await cli("models", "resolve", "claude-opus-5-5", "--key", "alice/laptop", "--region", "eu-west-1")
    assert found.code == 0
    lines = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in found.out.splitlines()}
    assert (lines["mapped"], lines["source"], lines["region"]) == ("yes", "packaged", "eu-west-1 (query)")
    assert (lines["key"], lines["bedrock key"], lines["providers"]) == ("laptop", "no", "bedrock, then plan")
    by_user = await cli("models", "resolve", "claude-opus-5-5", "--user", "alice", "-o", "json")
    assert json.loads(by_user.out)["routing_strategy"] == "bedrock_first"

    unmapped = await cli("models", "resolve", "claude-nobody-9")
    assert (unmapped.code, "proxyctl models map claude-nobody-9" in unmapped.out) == (0, True)
    assert (await cli("models", "resolve", "a", "--region", "evil.example")).code == 7
    assert (await cli("models", "resolve", "a", "--user", "nobody")).code == 3


async def test_a_strategy_is_shown_and_set(cli: Shell) -> None:
    await cli("users", "create", "alice")
    done = await cli("routing", "set", "alice", "bedrock_only", "-o", "json")
    assert (done.code, json.loads(done.out)["result"]) == (0, "updated")
    same = await cli("routing", "set", "alice", "bedrock_only", "-o", "json")
    assert json.loads(same.out)["result"] == "unchanged"
    shown = await cli("routing", "get", "alice", "-o", "name")
    assert shown.out == "bedrock_only\n"
    assert (await cli("routing", "get", "nobody")).code == 3


async def test_an_unknown_strategy_is_answered_with_those_there_are() -> None:
    done = await proxyctl("routing", "set", "alice", "fastest", PROXY_ADMIN_TOKEN="t")
    assert (done.code, "plan_first, plan_only, bedrock_first, bedrock_only" in done.err) == (2, True)
    listed = await proxyctl("routing", "strategies", "-o", "name")
    assert listed.out.split() == ["plan_first", "plan_only", "bedrock_first", "bedrock_only"]
