"""What a person at a terminal sees: tables to read, questions that can be left."""

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxyctl.commands.top import _frame
from proxyctl.timespan import ago
from tests.cli.test_cli import Shell
from tests.support.daemon import running_daemon
from tests.support.terminal import CTRL_C, CTRL_D, on_a_terminal

NOWHERE = "http://127.0.0.1:9"


async def test_tables_say_when_and_numbers_stand_below_each_other(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        shell = Shell(daemon.url, await daemon.admin_token())
        for name, budget in (("alice", "7"), ("bob", "1250")):
            await shell("users", "create", name, "--budget", budget)
        signed_in = {"PROXY_SERVER": shell.url, "PROXY_ADMIN_TOKEN": shell.token}
        code, users = await asyncio.to_thread(on_a_terminal, "users", "list", **signed_in)
        assert code == 0
        assert re.search(r"^NAME +TEAM +STRATEGY +ACTIVE +CREATED +ID$", users, re.MULTILINE)
        assert re.search(r"^alice +- +plan_first +yes +\d+ s ago +\S+$", users, re.MULTILINE)
        _, budgets = await asyncio.to_thread(on_a_terminal, "budgets", "list", **signed_in)
        ends = {line.index(amount) + len(amount) for line in budgets.splitlines() for amount in _first_amount(line)}
        assert len(ends) == 1, budgets

        asked = "Type 'alice' to confirm"
        for answer, code in ((b"bob\n", 2), (CTRL_D, 2), (CTRL_C, 130)):
            ended, screen = await asyncio.to_thread(
                on_a_terminal, "users", "delete", "alice", typed=[(asked.encode(), answer)], **signed_in
            )
            assert (ended, asked in screen) == (code, True), screen
        assert "alice" in (await shell("users", "list")).out
        ended, _ = await asyncio.to_thread(
            on_a_terminal, "users", "delete", "alice", typed=[(asked.encode(), b"alice\n")], **signed_in
        )
        assert (ended, "alice" in (await shell("users", "list")).out) == (0, False)


def _first_amount(line: str) -> list[str]:
    return re.findall(r"\$[\d,.]+", line)[:1]


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D], ids=["ctrl-c", "ctrl-d"])
async def test_a_question_can_be_left_and_nothing_is_changed(tmp_path: Path, key: bytes) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        for arguments, question in (
            (("auth", "login", "--print-token"), b"assword"),
            (("claude", "setup"), b"Access key:"),
        ):
            ended, screen = await asyncio.to_thread(
                on_a_terminal, *arguments, typed=[(question, key)], PROXY_SERVER=daemon.url, HOME=str(tmp_path)
            )
            assert (ended, "unexpected" in screen) == (130, False), screen
        assert not (tmp_path / ".claude").exists()
        assert not (tmp_path / ".config").exists()


def test_a_name_with_brackets_is_shown_as_it_is() -> None:
    from rich.console import Console

    row = {"name": "[/x] [red]", "requests": 1, "errors": 0, "fallbacks": 0, "cost_nano_usd": 5}
    stats = {"requests_per_minute": 1, "requests_in_flight": 0, "circuits_open": 0, "version": "1", "total": row}
    stats |= {"window_seconds": 60, "by_user": [row], "by_model": [], "by_provider": []}
    console = Console(width=100)
    with console.capture() as shown:
        console.print(_frame(stats, NOWHERE, None, 5))
    assert "[/x] [red]" in shown.get()


@pytest.mark.parametrize(
    ("instant", "said"),
    [
        ("2026-03-01T11:59:30Z", "30 s ago"),
        ("2026-03-01T11:00:00.123456Z", "59 min ago"),
        ("2026-03-01T06:00:00+00:00", "6 h ago"),
        ("2026-02-01T12:00:00Z", "28 days ago"),
        ("2026-03-01T12:05:00Z", "in 5 min"),
        ("2026-04-01T12:00:00Z", "in 31 days"),
        ("2026-03-01", "2026-03-01"),
        ("laptop", "laptop"),
        ("2026-99-99T99:99:99Z", "2026-99-99T99:99:99Z"),
    ],
)
def test_an_instant_as_people_say_it(instant: str, said: str) -> None:
    assert ago(instant, datetime(2026, 3, 1, 12, tzinfo=UTC)) == said
