"""`proxyctl top`: what is going on right now."""

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.errors import AuthError, CliError
from proxyctl.output import Column, bar, clean, column, dollars

if TYPE_CHECKING:
    from rich.console import Group

COLUMNS: list[Column] = [
    ("requests per minute", lambda row: row["requests_per_minute"]),
    ("in flight", lambda row: row["requests_in_flight"]),
    ("circuits open", lambda row: row["circuits_open"]),
    ("errors", lambda row: row["total"]["errors"]),
    ("fallbacks", lambda row: row["total"]["fallbacks"]),
    ("cost", lambda row: dollars(row["total"]["cost_nano_usd"])),
    column("version"),
]
_ROWS = 20
_HEAD = 4  # lines above the groups
_GROUPS = (("user", "by_user"), ("model", "by_model"), ("provider", "by_provider"))


def register_commands(app: typer.Typer) -> None:
    @register(app, "top")
    def top(
        cli: Cli,
        minutes: Annotated[int, typer.Option("--minutes", min=1, max=60, help="How far to look back.")] = 5,
        interval: Annotated[float, typer.Option("--interval", min=1, max=60, help="Seconds between frames.")] = 2,
        once: Annotated[bool, typer.Option("--once", help="One frame, then end.")] = False,
    ) -> None:
        """Live: requests, errors, fallbacks, cost by user and model. q ends it.

        Without a terminal it is one frame. Example: proxyctl top --minutes 15
        """

        def ask() -> dict[str, Any]:
            return cli.client.get("/admin/system/stats", minutes=minutes)

        if cli.printer.form not in (None, "table") or cli.options.query:
            cli.printer.item(ask(), COLUMNS, name="version")
        elif not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
            sys.stdout.write(_plain(ask()))
        elif once or not sys.stdin.isatty():
            from rich.console import Console

            Console().print(_frame(ask(), cli.server, None, _ROWS))
        else:
            _watch(cli, ask, interval)


def _plain(stats: dict[str, Any]) -> str:
    """A frame as text: totals, then tab-separated rows of each group."""
    lines = [f"{title}\t{clean(value(stats))}" for title, value in COLUMNS]
    for title, group in _GROUPS:
        for row in stats[group]:
            figures = (row["requests"], row["errors"], row["fallbacks"], dollars(row["cost_nano_usd"]))
            lines.append("\t".join([title, clean(row["name"]), *map(str, figures)]))
    return "\n".join(lines) + "\n"


def _watch(cli: Cli, ask: Any, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    trouble = None
    with _keys(), Live(console=console, screen=True, auto_refresh=False) as live, suppress(KeyboardInterrupt):
        stats = ask()
        while True:
            most = max(1, (console.height - _HEAD) // len(_GROUPS) - 2)
            live.update(_frame(stats, cli.server, trouble, most), refresh=True)
            if _quit_within(interval):
                return
            try:
                stats, trouble = ask(), None
            except AuthError:
                raise
            except CliError as error:  # the last frame stays, with the reason
                trouble = error.message


def _frame(stats: dict[str, Any], server: str, trouble: str | None, most_rows: int) -> "Group":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    minutes = stats["window_seconds"] // 60
    told = "  ".join(f"{title} {clean(value(stats))}" for title, value in COLUMNS[:-1])
    parts: list[Any] = [
        Text(f"{server}  {stats['version']}  last {minutes} min  {time.strftime('%H:%M:%S')}  q ends", style="dim"),
        Text(told, style="bold"),
    ]
    if trouble is not None:
        parts.append(Text(clean(trouble), style="red"))
    for title, group in _GROUPS:
        rows = stats[group]
        most = max((row["cost_nano_usd"] for row in rows), default=0)
        table = Table(box=None, expand=False, pad_edge=False)
        table.add_column(title, overflow="ellipsis", no_wrap=True)
        for name in ("requests", "errors", "fallbacks", "cost"):
            table.add_column(name, justify="right")
        table.add_column("")
        for row in rows[:most_rows]:
            figures = (str(row[name]) for name in ("requests", "errors", "fallbacks"))
            cost = row["cost_nano_usd"]
            table.add_row(Text(clean(row["name"])), *figures, dollars(cost), bar(cost, most))
        parts += [Text(""), table]
    return Group(*parts)


@contextmanager
def _keys() -> Iterator[None]:
    """Keys come without Enter, and are not shown; afterwards the terminal is as it was."""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _quit_within(seconds: float) -> bool:
    """Whether q was typed before the next frame is due."""
    due = time.monotonic() + seconds
    while (left := due - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin], [], [], left)
        if ready and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b""):
            return True
    return False
