"""`proxyctl usage export` and `tail`: the ledger as it is, row after row."""

import json
import os
import sys
import time
from contextlib import suppress
from enum import StrEnum
from typing import IO, Annotated, Any

import typer

from proxyctl.command import register
from proxyctl.commands.usage_options import (
    KeyOption,
    Model,
    Provider,
    Since,
    Team,
    To,
    Until,
    UserOption,
    narrowed,
    span,
)
from proxyctl.context import Cli
from proxyctl.errors import CliError, UnreachableError, UsageError
from proxyctl.output import clean, dollars
from proxyctl.rows import Rows, cursor_of, kept

PATH = "/admin/usage/export"
TRIES = 5  # a broken stream is taken up again, as long as there is progress
EVERY = 0.5  # seconds between two signs of progress


class Form(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"


Session = Annotated[str | None, typer.Option("--session", help="Only this session's.")]


def register_commands(group: typer.Typer) -> None:
    register(group, "export")(export)
    register(group, "tail")(tail)


def export(
    cli: Cli,
    form: Annotated[Form, typer.Option("--format", help="jsonl or csv.")] = Form.JSONL,
    output_file: Annotated[str | None, typer.Option("--output-file", help="A new file instead of stdout.")] = None,
    after: Annotated[str | None, typer.Option("--after", help="Go on after the row with this cursor.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where --output-file ends.")] = False,
    since: Since = None,
    until: Until = None,
    to: To = None,
    user: UserOption = None,
    key: KeyOption = None,
    provider: Provider = None,
    model: Model = None,
    team: Team = None,
    session: Session = None,
) -> None:
    """The ledger, the oldest row first, as JSON lines or CSV. Every row ends with its cursor.

    A broken stream is taken up again; what was broken off for good goes on with --resume, or --after CURSOR.

    Example: proxyctl usage export --since 2026-11-01 --format csv --output-file november.csv
    """
    query = span(since, until, to) | narrowed(cli, user, key, provider, model, team)
    query |= {"format": form, "session_id": session}
    if output_file is None:
        if resume:
            raise UsageError("--resume needs --output-file")
        _copy(cli, query, after, form, sys.stdout.buffer)
        return
    file, after = _opened(output_file, after, resume, form)
    with file:
        _copy(cli, query, after, form, file)
        file.flush()
        os.fsync(file.fileno())


def tail(
    cli: Cli,
    number: Annotated[int, typer.Option("-n", min=0, max=500, help="Rows to begin with.")] = 10,
    interval: Annotated[float, typer.Option("--interval", min=0.2, max=3600, help="Seconds between looks.")] = 2.0,
    user: UserOption = None,
    key: KeyOption = None,
    provider: Provider = None,
    model: Model = None,
    team: Team = None,
    session: Session = None,
) -> None:
    """Follow the ledger until Ctrl-C. A line for people, one JSON object a line in a pipe or with -o json."""
    query = narrowed(cli, user, key, provider, model, team) | {"session_id": session}
    as_json = cli.printer.form == "json" or (cli.printer.form is None and not sys.stdout.isatty())
    newest = cli.client.get("/admin/usage/records", limit=max(1, number), **query)["items"]
    cursor = newest[0]["cursor"] if newest else None
    for entry in reversed(newest[:number]):
        _show(entry, as_json)
    while True:
        sys.stdout.flush()
        time.sleep(interval)
        rows = Rows(quoted=False)
        try:
            for chunk in cli.client.stream(PATH, cursor=cursor, **query):
                for line in rows.feed(chunk).splitlines():
                    _show(json.loads(line), as_json)
        except UnreachableError as error:
            cli.tell(f"{error.message}; trying again")
        cursor = cursor_of(rows.last, quoted=False) or cursor


def _opened(path: str, after: str | None, resume: bool, form: Form) -> tuple[IO[bytes], str | None]:
    """The file to write to, and the cursor to go on after. A row that was cut off at its end is taken out."""
    if not os.path.lexists(path):
        return _new(path), after
    if not resume and after is None:
        raise CliError(f"{path} exists already", hint="add --resume to go on where it ends, or name a new file")
    try:
        file = open(path, "r+b")  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}") from error
    quoted = form is Form.CSV
    end, last, rows = kept(file, quoted=quoted)
    header_only = quoted and rows == 1
    cursor = None if header_only else cursor_of(last, quoted=quoted)
    if rows and not header_only and cursor is None:
        file.close()
        raise CliError(f"{path} is not an export in {form}", hint="name the --format it was written in")
    if after is not None and cursor != after:
        file.close()
        raise UsageError(f"{path} does not end at --after", hint="proxyctl usage export --resume goes on at its end")
    file.truncate(0 if cursor is None else end)
    file.seek(0, os.SEEK_END)
    return file, cursor


def _new(path: str) -> IO[bytes]:
    try:
        return open(path, "xb")
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}") from error


def _copy(cli: Cli, query: dict[str, Any], after: str | None, form: Form, sink: IO[bytes]) -> None:
    """Whole rows only, again after each break."""
    progress, tries = _Progress(cli), 0
    quoted = form is Form.CSV
    header = quoted and after is None
    while True:
        rows = Rows(quoted=quoted)
        try:
            for chunk in cli.client.stream(PATH, cursor=after, **query):
                whole = rows.feed(chunk)
                sink.write(whole)
                progress.add(rows.taken(), len(whole))
        except UnreachableError as error:
            tries = 0 if rows.count else tries + 1
            after = cursor_of(rows.last, quoted=quoted) or after
            if tries >= TRIES:
                progress.end()
                error.hint = f"it goes on with: --after {after}" if after else error.hint
                raise
            time.sleep(min(0.5 * 2**tries, 8))
        else:
            progress.end()
            break
        finally:
            with suppress(BrokenPipeError):
                sink.flush()
    after = cursor_of(rows.last, quoted=quoted) or after
    cli.tell(f"{progress.rows - header if progress.rows else 0:,} rows")
    if after is not None:
        cli.tell(f"later rows: --after {after}")


class _Progress:
    """How far it is, in one line that is written over, on a terminal."""

    def __init__(self, cli: Cli) -> None:
        self._shown = sys.stderr.isatty() and not cli.quiet
        self._began = self._last = time.monotonic()
        self._size = 0
        self.rows = 0

    def add(self, rows: int, size: int) -> None:
        self.rows += rows
        self._size += size
        now = time.monotonic()
        if self._shown and now - self._last >= EVERY:
            self._last = now
            rate = self.rows / (now - self._began)
            sys.stderr.write(f"\r{self.rows:,} rows  {self._size / 1e6:,.1f} MB  {rate:,.0f} rows/s\x1b[K")
            sys.stderr.flush()

    def end(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")


def _show(entry: dict[str, Any], as_json: bool) -> None:
    if as_json:
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
    else:
        cost = dollars(entry["cost_nano_usd"]) + ("~" if entry["estimated"] else "")
        who = f"{clean(entry['user_name'])}/{clean(entry['access_key_name'])}"
        tokens = f"{entry['input_tokens']} in {entry['output_tokens']} out"
        words = (entry["admitted_at"], who, entry["provider"], entry["model_served"], entry["status"], entry["ended"])
        line = "  ".join(clean(word) for word in (*words, tokens, cost, entry["request_id"]))
    sys.stdout.write(line + "\n")
