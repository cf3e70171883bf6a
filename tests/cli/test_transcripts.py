"""Sessions at a shell, as files: `transcripts/*.txt`. Each is run in a real shell against a real daemon, on both stores.

A file has comments (`# …`), commands (`$ …`, continued by `> …`), and what they print: standard output as it is, standard error
after `! `, and `[exit N]` unless it is 0. Ids, keys, times and whatever else differs from run to run is put in order first
(`Names`). Beside `proxyctl` the shell has `ask KEY [MODEL]`, which makes one request as a client would, and prints the status.

`UPDATE_TRANSCRIPTS=1` writes what was printed into the files; what changed is then for a person to read.
"""

import asyncio
import itertools
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxyctl.main import tree
from tests.support.command_line import command_line
from tests.support.daemon import ADMIN_PASSWORD, RunningDaemon, daemon_between_simulators
from tests.support.rows import put_circuit, put_learned

FILES = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
ELSEWHERE = {  # what no transcript can show, and where it is tested
    "serve": "tests/drill/rig.py",
    "daemon run": "tests/cli/test_pricing.py",
    "demo": "tests/cli/test_cli.py",
}
_LONGEST = 60.0  # seconds of a command
_ASK = """
import json, sys, urllib.error, urllib.request
model = sys.argv[3] if len(sys.argv) > 3 else "claude-opus-5-5"
body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
call = urllib.request.Request(f"{sys.argv[1]}/ak/{sys.argv[2]}/v1/messages", json.dumps(body).encode(), headers)
try:
    print(urllib.request.urlopen(call).status)
except urllib.error.HTTPError as error:
    print(error.code, json.load(error)["error"]["type"])
"""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with command_line(tmp_path_factory.mktemp("cli")) as directory:
        (directory / "ask.py").write_text(_ASK)
        ask = directory / "ask"
        ask.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{directory}/ask.py" "$PROXY_SERVER" "$@"\n')
        (directory / "claude").write_text("#!/bin/sh\n")
        for program in (ask, directory / "claude"):
            program.chmod(0o755)
        yield directory


@pytest.mark.timeout(120)
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
async def test_a_session_prints_what_its_transcript_says(
    file: Path, tmp_path: Path, database_url: str, programs: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    written = file.read_text()
    async with daemon_between_simulators(tmp_path, database_url) as (daemon, plan):
        places = {str(home): "~", str(programs): "/usr/local/bin", str(Path(sys.executable).parent): "/opt/bin"}
        names = Names(places | {daemon.url: "http://127.0.0.1:8000", plan: "https://api.anthropic.example"})
        if "# given: a circuit\n" in written:
            await a_circuit(daemon)
        shell = Shell(home, programs, PROXY_SERVER=daemon.url, PROXY_ADMIN_TOKEN=await daemon.admin_token())
        try:
            printed = []
            for before, command in steps(written):
                shown = names.tidy(await asyncio.to_thread(shell.run, command))
                await daemon.runtime.ledger.flush()
                printed.append(before + prompted(command) + shown)
        finally:
            shell.close()
    text = "".join(printed)
    if os.environ.get("UPDATE_TRANSCRIPTS"):
        file.write_text(text)
    assert text == written


def test_every_command_is_in_a_transcript() -> None:
    typed = "\n".join(command for file in FILES for _, command in steps(file.read_text()))
    missing = {name for name in leaves() if not re.search(rf"\bproxyctl {name}\b", typed)}
    assert missing == set(ELSEWHERE)
    assert all(Path(place).exists() for place in ELSEWHERE.values())


async def a_circuit(daemon: RunningDaemon) -> None:
    """alice/laptop was overloaded at the plan, and something was learned about a model on Bedrock."""
    await daemon.create_key()
    headers = {"authorization": f"Bearer {await daemon.admin_token()}"}
    async with httpx.AsyncClient(base_url=daemon.url, headers=headers) as client:
        [key] = (await client.get("/admin/access-keys")).json()["items"]
    await put_circuit(daemon, key["id"])
    await put_learned(daemon)


def test_no_command_is_cut_off_in_a_list_of_80_columns() -> None:
    def walk(command: Any) -> Iterator[str]:
        shown = {name: child for name, child in getattr(command, "commands", {}).items() if not child.hidden}
        width = 80 - 6 - max(map(len, shown), default=0)
        for child in shown.values():
            yield child.get_short_help_str(width)
            yield from walk(child)

    assert [line for line in walk(tree()) if line.endswith("...")] == []


def leaves() -> list[str]:
    """The names of all commands that are listed in a help text."""
    found: list[str] = []

    def walk(command: object, path: tuple[str, ...]) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found.append(" ".join(path))
        for name, child in (inner or {}).items():
            if not child.hidden:
                walk(child, (*path, name))

    walk(tree(), ())
    return found


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Each command with what stands before it: comments, and empty lines."""
    blocks = re.split(r"^\$ ", text, flags=re.MULTILINE)
    before = blocks[0]
    for block in blocks[1:]:
        command, *rest = block.split("\n")
        more = list(itertools.takewhile(lambda line: line.startswith("> "), rest))
        yield before, "\n".join([command, *(line[2:] for line in more)])
        after = re.search(r"\n(# .*\n)+\n?\Z", block)
        before = after[0] if after else ""


def prompted(command: str) -> str:
    return "$ " + command.replace("\n", "\n> ") + "\n"


class Shell:
    """A shell that keeps its variables from one command to the next."""

    def __init__(self, home: Path, programs: Path, **variables: str) -> None:
        self._home = home
        self._streams = {name: home.parent / name for name in ("out", "err", "step")}
        environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(home),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            **variables,
        }
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(["/bin/sh"], stdin=pipe, stdout=pipe, cwd=home, env=environment, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asked, self._answers = self._process.stdin, self._process.stdout

    def run(self, command: str) -> str:
        """What a command printed, in the form of a transcript."""
        self._streams["step"].write_text(command + "\n")
        out, err, step = (self._streams[name] for name in ("out", "err", "step"))
        self._asked.write(f". {step} >{out} 2>{err} </dev/null; echo $?\n")
        self._asked.flush()
        if not select.select([self._answers], [], [], _LONGEST)[0]:
            self._process.kill()
            raise AssertionError(
                f"{command}: not done after {_LONGEST:g} s; so far: {out.read_text()} {err.read_text()}"
            )
        code = int(self._answers.readline())
        shown = [*out.read_text().splitlines(), *(f"! {line}".rstrip() for line in err.read_text().splitlines())]
        if code:
            shown.append(f"[exit {code}]")
        return "".join(f"{line}\n" for line in shown)

    def close(self) -> None:
        self._asked.close()
        self._answers.close()
        self._process.wait(10)


class Names:
    """Puts what differs between two runs in order: the first id that is seen is 1, all times are one."""

    _PATTERNS = (
        ("id", re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")),
        ("key", re.compile(r"\bak_[A-Za-z0-9_-]{20,}")),
        ("token", re.compile(r"\bpt_[A-Za-z0-9_-]{20,}")),
        ("jwt", re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+")),
        ("prefix", re.compile(r"\b(?:ak|pt)_[A-Za-z0-9_-]{4}…")),
        ("request", re.compile(r"\b(?:req|msg)_[A-Za-z0-9_-]{8,}")),
    )
    _CONSTANT = (
        (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), "2026-01-01T00:00:00Z"),
        (re.compile(r"\b20\d\d-\d\d-\d\d\b"), "2026-01-01"),
        (re.compile(r"\b(sqlite|postgresql)\b"), "sqlite"),
        (re.compile(r"\b\d+(\.\d+)? ms\b"), "N ms"),
        (re.compile(r'("seconds_left": |\topen\t)\d+'), r"\1N"),
        (re.compile(r"^(duration ms +)\d+$", re.MULTILINE), r"\1N"),
        (re.compile(r"(\tfinished\t\d+\t\d+\t)\d+"), r"\1N"),
        (re.compile(r"^[A-Za-z0-9_-]{20}$", re.MULTILINE), "<password>"),
        (re.compile(r"crash-\w+-\d+"), "crash-N"),
        (re.compile(r'("\w+_ms": ?)\d+(\.\d+)?'), r"\1N"),
        (re.compile(rf"\b{re.escape(version('claude-code-proxyctl'))}\b"), "VERSION"),
    )

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places
        self._seen: dict[str, str] = {}

    def tidy(self, text: str) -> str:
        for place, name in self._places.items():
            text = text.replace(place, name)
        for kind, pattern in self._PATTERNS:
            text = pattern.sub(lambda found, kind=kind: self._name(kind, found[0]), text)  # type: ignore[misc]
        for pattern, constant in self._CONSTANT:
            text = pattern.sub(constant, text)
        return text.replace(ADMIN_PASSWORD, "PASSWORD")

    def _name(self, kind: str, value: str) -> str:
        if value not in self._seen:
            number = 1 + sum(name.startswith(f"<{kind}-") for name in self._seen.values())
            self._seen[value] = f"<{kind}-{number}>"
        return self._seen[value]
