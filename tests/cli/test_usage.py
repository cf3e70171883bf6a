"""`proxyctl usage`: reports, trees, exports that go on where they ended."""

import asyncio
import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from daemon.core.periods import day_start
from daemon.secrets_store import database_url
from daemon.store import usage
from daemon.store.engine import Store
from proxyctl.commands import usage_export
from proxyctl.context import Cli, Options
from proxyctl.errors import UnreachableError, UsageError
from proxyctl.output import bar
from proxyctl.rows import Rows, cursor_of
from proxyctl.timespan import day_after, start_of
from tests.cli.test_cli import Done, proxyctl
from tests.factories import usage_record
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.simulator import running_simulator

NOW = datetime(2026, 3, 2, tzinfo=UTC)


@dataclass
class Shell:
    daemon: RunningDaemon
    token: str

    @property
    def variables(self) -> dict[str, str]:
        return {"PROXY_SERVER": self.daemon.url, "PROXY_ADMIN_TOKEN": self.token}

    async def __call__(self, *arguments: str) -> Done:
        return await proxyctl("usage", *arguments, **self.variables)

    async def store(self, first: int, last: int, **fields: object) -> None:
        """Rows of the ledger, a minute apart until now."""
        now = datetime.now(UTC)
        records = [
            usage_record(
                request_id=f"req_{number:04}",
                session_id="s1",
                agent_id="agent-1" if number % 2 else None,
                request_class="subagent" if number % 2 else "main",
                admitted_at=now - timedelta(minutes=last - number),
                **fields,
            )
            for number in range(first, last)
        ]
        store = Store.open(database_url(self.daemon.settings))
        async with store.write() as connection:
            await usage.append(connection, records, day_of=lambda instant: day_start(instant, ZoneInfo("UTC")))
        await store.aclose()


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with running_simulator() as (_, plan), running_daemon(tmp_path, plan) as daemon:
        yield Shell(daemon, await daemon.admin_token())


async def test_reports_by_everything(shell: Shell) -> None:
    await shell.store(0, 30)
    for by in ("user", "model", "provider", "key", "team", "session", "hour", "day", "week", "month"):
        done = await shell("summary", "--since", "2h", "--by", by)
        assert done.code == 0, done.err
        assert sum(int(line.split("\t")[1]) for line in done.out.splitlines()) == 30
    today = datetime.now(UTC).date().isoformat()
    days = await shell("summary", "--from", "2026-01-01", "--to", "2026-01-03", "--by", "day")
    assert [line.split("\t")[:2] for line in days.out.splitlines()] == [[f"2026-01-0{n}", "0"] for n in (1, 2, 3)]
    assert (await shell("summary", "--from", today, "--to", "soon")).code == 2
    assert (await shell("summary", "--from", today, "--to", today, "--until", today)).code == 2
    assert (await shell("summary", "--from", "2026-01-03", "--to", "2026-01-01")).code == 7
    assert json.loads((await shell("summary", "--by", "model", "-o", "json")).out)["group_by"] == "model"
    cache = await shell("cache", "--by", "session", "--since", "1d")
    assert cache.out.startswith("s1\t30\t25.0%\t")
    assert (await shell("records", "--session", "s1", "--since", "1h", "--limit", "3")).out.count("\n") == 3


async def test_a_session_is_drawn_as_a_tree(shell: Shell) -> None:
    await shell.store(0, 4)
    lines = (await shell("session", "s1")).out.splitlines()
    assert lines[0].startswith("session s1  4 requests  $")
    assert [line[:8] for line in lines[1:3]] == [f"├─ {datetime.now(UTC).year}-"] * 2
    assert lines[3].startswith("└─ agent agent-1  2 requests")
    assert (lines[4][:5], lines[5][:5]) == ("   ├─", "   └─")
    assert "  subagent  req_0003" in lines[5]
    assert json.loads((await shell("session", "s1", "-o", "json")).out)["root"]["totals"]["requests"] == 4
    assert (await shell("session", "s2")).code == 3
    assert (await shell("session", "../../users")).code == 7


@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_an_export_goes_on_where_the_file_ends(shell: Shell, tmp_path: Path, form: str) -> None:
    await shell.store(0, 700)
    file = tmp_path / "out"
    arguments = ("export", "--format", form, "--output-file", str(file))
    first = await shell(*arguments)
    assert (first.code, first.out) == (0, "")
    assert "700 rows" in first.err
    whole = file.read_bytes()
    assert (await shell("export", "--format", form)).out.encode() == whole
    again = await shell(*arguments)
    assert (again.code, "--resume" in again.err) == (1, True)

    file.write_bytes(whole[: len(whole) * 2 // 3])  # killed in the middle of a row
    await shell.store(700, 750)
    resumed = await shell(*arguments, "--resume")
    assert resumed.code == 0, resumed.err
    text = file.read_text()
    rows = (
        list(csv.DictReader(io.StringIO(text))) if form == "csv" else [json.loads(line) for line in text.splitlines()]
    )
    assert [row["request_id"] for row in rows] == [f"req_{number:04}" for number in range(750)]
    assert f"--after {rows[-1]['cursor']}" in resumed.err

    file.write_bytes(whole.splitlines(keepends=True)[0][:9])  # nothing whole: from the start
    assert (await shell(*arguments, "--resume")).code == 0
    assert file.read_text() == text
    other = await shell(*arguments, "--after", rows[3]["cursor"])
    assert (other.code, "--resume" in other.err) == (2, True)
    rest = await shell("export", "--format", form, "--after", rows[-2]["cursor"])
    assert rest.out.encode() == text.encode().splitlines(keepends=True)[-1]
    foreign = await shell(
        "export", "--format", "csv" if form == "jsonl" else "jsonl", "--output-file", str(file), "--resume"
    )
    assert (foreign.code, file.read_text()) == (1, text)


async def test_tail_follows_the_ledger_as_json_lines(shell: Shell) -> None:
    await shell.store(0, 5)
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **shell.variables}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxyctl", "usage", "tail", "-n", "2", "--interval", "0.2",
        stdout=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            seen = [json.loads(await process.stdout.readline())["request_id"] for _ in range(2)]
            await shell.store(5, 8)
            seen += [json.loads(await process.stdout.readline())["request_id"] for _ in range(3)]
    finally:
        process.terminate()
        await process.wait()
    assert seen == [f"req_{number:04}" for number in range(3, 8)]


async def test_a_terminal_gets_bars(shell: Shell) -> None:
    await shell.store(0, 3)
    await shell.store(3, 4, model_served="another", user_id=UUID(int=9))
    main, end = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **shell.variables}
    command = [sys.executable, "-m", "proxyctl", "usage", "summary", "--by", "model"]
    done = await asyncio.to_thread(subprocess.run, command, stdout=end, env=environment, timeout=60)
    os.close(end)
    shown = os.read(main, 65536).decode()
    os.close(main)
    assert done.returncode == 0
    bars = [re.findall("[█▏▎▍▌▋▊▉]+", line) for line in shown.splitlines()[1:]]
    assert bars == [["█" * 20], ["█" * 6 + "▋"]]


async def test_usage_is_made_anew_from_the_ledger(tmp_path: Path) -> None:
    data = {"PROXY_DATA_DIR": str(tmp_path)}
    assert (await proxyctl("db", "upgrade", **data)).code == 0
    done = await proxyctl("db", "rebuild-usage", **data)
    assert (done.code, done.out, "0 hours, 0 days" in done.err) == (0, "", True)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("7d", "2026-02-23T00:00:00+00:00"),
        ("36h", "2026-02-28T12:00:00+00:00"),
        ("30m", "2026-03-01T23:30:00+00:00"),
        ("2w", "2026-02-16T00:00:00+00:00"),
        ("2026-02-01", "2026-02-01"),
        ("yesterday", "yesterday"),
    ],
)
def test_spans_are_until_now_and_everything_else_is_for_the_daemon(text: str, instant: str) -> None:
    assert start_of(text, NOW) == instant


def test_a_last_day_is_included() -> None:
    assert day_after("2026-02-28") == "2026-03-01"
    for text in ("2026-02-30", "9999-12-31", "1 March"):
        with pytest.raises(UsageError):
            day_after(text)
    with pytest.raises(UsageError):
        start_of("999999w", NOW)


def test_a_bar_is_as_long_as_its_share() -> None:
    assert [bar(amount, 800, width=2) for amount in (800, 450, 400, 1, 0)] == ["██", "█▏", "█", "▏", ""]
    assert bar(5, 0) == ""


def test_rows_are_whole_whatever_the_pieces() -> None:
    data = b'a,"x\ny",c1\nb,"q""\n",c2\nc,z'
    for size in (1, 2, 3, 100):
        rows, out = Rows(quoted=True), b""
        for start in range(0, len(data), size):
            out += rows.feed(data[start : start + size])
        assert (out, rows.count, cursor_of(rows.last, quoted=True)) == (data[:-3], 2, "c2")
        assert (rows.taken(), rows.taken()) == (2, 0)
    assert cursor_of(b"no json", quoted=False) is None


class Breaking:
    """A client whose stream breaks off in the middle of every answer but the last."""

    def __init__(self, answers: list[bytes | None]) -> None:
        self.answers = answers
        self.asked: list[str | None] = []

    def stream(self, path: str, *, cursor: str | None, **query: object) -> Iterator[bytes]:
        self.asked.append(cursor)
        answer = self.answers.pop(0)
        yield answer or b""
        if self.answers:
            raise UnreachableError("broke off")


def copied(answers: list[bytes | None], monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, Breaking]:
    monkeypatch.setattr(usage_export.time, "sleep", lambda seconds: None)
    client, sink = Breaking(answers), io.BytesIO()
    cli = Cli(Options(quiet=True, server="http://127.0.0.1:1"))
    cli.__dict__["client"] = client
    usage_export._copy(cli, {}, None, usage_export.Form.JSONL, sink)
    return sink.getvalue(), client


def test_a_broken_stream_is_taken_up_after_the_last_whole_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'{{"n":{number},"cursor":"c{number}"}}\n'.encode() for number in range(4)]
    out, client = copied([rows[0] + rows[1] + rows[2][:5], None, rows[2] + rows[3][:-1], rows[3]], monkeypatch)
    assert (out, client.asked) == (b"".join(rows), [None, "c1", "c1", "c2"])


def test_a_stream_that_stays_broken_is_given_up_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreachableError) as failure:
        copied([b'{"cursor":"c7"}\n', *[None] * 9], monkeypatch)
    assert failure.value.hint == "it goes on with: --after c7"
