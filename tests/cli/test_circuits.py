"""`proxyctl circuits` and `proxyctl compatibility` against a real daemon, and how attempts are shown."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args
from uuid import uuid4

import pytest

from daemon.contract.common import RoutingStrategy
from daemon.store.tables import compatibility
from proxyctl.commands.routing import STRATEGIES
from proxyctl.commands.usage import _tell_attempts
from tests.cli.test_cli import Shell, proxyctl
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.rows import put_circuit, put_row

NOWHERE = "http://127.0.0.1:9"


@asynccontextmanager
async def running_shell(tmp_path: Path) -> AsyncIterator[tuple[Shell, RunningDaemon]]:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        yield Shell(daemon.url, await daemon.admin_token()), daemon


async def test_circuits_are_listed_and_reset(tmp_path: Path) -> None:
    async with running_shell(tmp_path) as (shell, daemon):
        await shell("users", "create", "alice")
        key = json.loads((await shell("keys", "create", "alice", "--name", "laptop", "-o", "json")).out)
        await put_circuit(daemon, key["id"])
        await put_circuit(daemon, key["id"], provider="bedrock", open_until=datetime.now(UTC))
        other = await put_circuit(daemon, "abc", scope="credential")

        listed = await shell("circuits", "list", "--provider", "plan", "--state", "open")
        rows = sorted(line.split("\t")[:4] for line in listed.out.splitlines())
        assert rows == [["abc", "credential", "plan", "open"], ["alice/laptop", "access_key", "plan", "open"]]
        got = await shell("circuits", "get", "alice/laptop", "--query", "items[?state=='half_open'].provider")
        assert json.loads(got.out) == ["bedrock"]

        reset = await shell("circuits", "reset", "laptop", "--provider", "plan", "-o", "json")
        assert [item["result"] for item in json.loads(reset.out)["items"]] == ["reset"]
        assert (await shell("circuits", "get", "alice/laptop", "-o", "json")).out.count('"state"') == 1
        assert (await shell("circuits", "reset", other)).err == "Reset plan (was open).\n"
        assert (await shell("circuits", "reset", key["id"])).err == "Reset bedrock (was half_open).\n"
        nothing = await shell("circuits", "reset", "alice/laptop")
        assert (nothing.code, "nothing to do" in nothing.err) == (0, True)
        assert (await shell("circuits", "reset", "nobody")).code == 3
        assert (await shell("circuits", "reset", str(uuid4()))).code == 3


async def test_what_was_learned_is_listed_and_forgotten(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    row = {"provider": "bedrock", "region": "eu-west-1", "kind": "beta", "reason": "r", "learned_at": now}
    row |= {"expires_at": now + timedelta(hours=1)}
    async with running_shell(tmp_path) as (shell, daemon):
        one = await put_row(daemon, compatibility, model="a&b=c", value="x", **row)
        await put_row(daemon, compatibility, model="a&b=c", value="y", **row)
        await put_row(daemon, compatibility, model="m", value="z", **row)
        listed = await shell("compatibility", "list", "--model", "m")
        assert listed.out.split("\t")[:5] == ["bedrock", "eu-west-1", "m", "beta", "z"]

        assert (await shell("compatibility", "forget", one)).err == "Forgot 1.\n"
        assert (await shell("compatibility", "forget", one)).code == 3
        assert (await shell("compatibility", "forget", "not-an-id")).code == 3
        assert (await shell("compatibility", "forget", "../users")).code == 7
        assert (await shell("compatibility", "forget", "--model", "a&b=c")).err == "Forgot 1.\n"
        done = await shell("compatibility", "forget", "--all", "-o", "json")
        assert json.loads(done.out) == {"forgotten": 1}


@pytest.mark.parametrize("arguments", [(), ("an-id", "--all"), ("--all", "--model", "m"), ("an-id", "--provider", "p")])
async def test_it_has_to_be_said_what_to_forget(arguments: tuple[str, ...]) -> None:
    done = await proxyctl("compatibility", "forget", *arguments, PROXY_ADMIN_TOKEN="t")
    assert (done.code, "say what to forget" in done.err) == (2, True)


def test_attempts_are_a_line_each_and_end_with_the_reason() -> None:
    said: list[str] = []
    attempts = [
        {"provider": "plan", "route": "messages", "status": 429, "failure": "rate_limited", "duration_ms": 12},
        {"provider": "plan", "route": "messages", "status": None, "failure": "timeout", "duration_ms": 9},
        {"provider": "bedrock", "route": "invoke", "status": 200, "failure": None, "duration_ms": 340},
    ]
    cli: Any = SimpleNamespace(tell=said.append)
    _tell_attempts(cli, {"attempts": attempts, "fallback_reason": "rate_limited"})
    assert said == [
        "1 plan messages 429 rate_limited 12 ms",
        "2 plan messages - timeout 9 ms",
        "3 bedrock invoke 200 ok 340 ms",
        "fallback: rate_limited",
    ]


def test_every_strategy_of_the_api_has_its_line() -> None:
    assert set(STRATEGIES) == set(get_args(RoutingStrategy))
