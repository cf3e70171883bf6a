"""A daemon between both simulated providers, and the work that Claude Code is given on it."""

import struct
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from daemon.simulator.anthropic import AnthropicSimulator
from daemon.simulator.base import Request
from daemon.simulator.bedrock import BedrockSimulator
from daemon.simulator.script import Step
from tests.e2e.client import Session, assert_books_equal_logs, bearer, run_claude
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.simulator import running_bedrock, running_simulator

DEADLINES = {"PROXY_FIRST_BYTE_TIMEOUT": "3", "PROXY_CONNECT_TIMEOUT": "3", "PROXY_WHOLE_ANSWER_TIMEOUT": "6"}
# The client believes that it speaks to Anthropic itself: more betas, cache scopes, diagnostics.
FIRST_PARTY = {"_CLAUDE_CODE_ASSUME_FIRST_PARTY_BASE_URL": "1"}
ONE_HOUR_CACHE = {"ENABLE_PROMPT_CACHING_1H": "1"}
SECRET_LINE = "the file was read"


class FailingPlan(AnthropicSimulator):
    """Plays the scenario but for the requests, counted from 0, that are said to fail."""

    def __init__(self, failures: Mapping[int, Step] | None = None, *, bound_thinking: bool = False) -> None:
        super().__init__(bound_thinking=bound_thinking)
        self._failures = failures or {}
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


class SelfishPlan(FailingPlan):
    """Refuses thinking that another provider has signed."""

    def next_step(self, request: Request, body: Mapping[str, Any]) -> Step:
        _only_own_thinking(body, "sim")
        return super().next_step(request, body)


class WatchfulBedrock(BedrockSimulator):
    """Keeps the bodies that were accepted; with `selfish`, refuses thinking that another provider has signed."""

    def __init__(self, *, selfish: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._selfish = selfish
        self.bodies: list[Mapping[str, Any]] = []

    def next_step(self, request: Request, body: Mapping[str, Any]) -> Step:
        if self._selfish:
            _only_own_thinking(body, "bdrk")
        self.bodies.append(body)
        return super().next_step(request, body)

    @property
    def refusals(self) -> int:
        return sum(entry["status"] == 400 for entry in self.log)


def _only_own_thinking(body: Mapping[str, Any], origin: str) -> None:
    for number, message in enumerate(body["messages"]):
        for place, block in enumerate(message["content"] if isinstance(message["content"], list) else ()):
            if block["type"] == "thinking" and not block["signature"].startswith(f"sig-{origin}-"):
                raise ValueError(f"messages.{number}.content.{place}: Invalid `signature` in `thinking` block")


@dataclass
class Stage:
    """A daemon, its providers, and the files of the sessions."""

    daemon: RunningDaemon
    plan: AnthropicSimulator
    bedrock: WatchfulBedrock
    directory: Path

    @property
    def commands_run(self) -> list[str]:
        """The lines that the commands of all sessions left, in their order."""
        return (self.directory / "commands.log").read_text().split()

    async def work(
        self,
        key: str,
        scenario: str,
        *,
        file: str = "notes.txt",
        arguments: Sequence[str] = (),
        own_login: bool = False,
        **variables: str,
    ) -> Session:
        """One session of Claude Code that plays a scenario; its commands leave a line each."""
        (self.directory / "notes.txt").write_text(f"{SECRET_LINE}\n")
        (self.directory / "picture.png").write_bytes(_picture())
        (self.directory / "pages.pdf").write_bytes(_pages())
        prompt = f"{scenario} [[log:{self.directory}/commands.log]] [[file:{self.directory}/{file}]]"
        credential = (
            bearer(f"{self.daemon.url}/ak/{key}", "the-users-own-login") if own_login else bearer(self.daemon.url, key)
        )
        return await run_claude(self.directory / "home", prompt, arguments=arguments, **credential, **variables)

    async def books(self) -> list[dict[str, Any]]:
        """The ledger, oldest first, once it is known to say what the providers say."""
        rows = await self.daemon.records()
        assert_books_equal_logs(rows, plan=self.plan, bedrock=self.bedrock)
        return rows

    async def learned(self) -> list[dict[str, Any]]:
        headers = {"authorization": f"Bearer {await self.daemon.admin_token()}"}
        async with httpx.AsyncClient(base_url=self.daemon.url, headers=headers) as client:
            answer = await client.get("/admin/compatibility")
            answer.raise_for_status()
            items: list[dict[str, Any]] = answer.json()["items"]
            return items


@asynccontextmanager
async def stage(
    tmp_path: Path,
    *,
    plan: AnthropicSimulator | None = None,
    bedrock: WatchfulBedrock | None = None,
    **variables: str,
) -> AsyncIterator[Stage]:
    watched = bedrock or WatchfulBedrock()
    async with (
        running_simulator(plan) as (simulated, plan_url),
        running_bedrock(watched) as (_, bedrock_url),
        running_daemon(tmp_path, plan_url, PROXY_BEDROCK_URL=bedrock_url, **(DEADLINES | variables)) as daemon,
    ):
        yield Stage(daemon, simulated, watched, tmp_path)


def _picture() -> bytes:
    """A small red PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\xff\0\0" * 8) * 8
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _pages() -> bytes:
    """A PDF of one page."""
    text = b"BT /F1 24 Tf 20 100 Td (Hello) Tj ET"
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(text), text),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    )
    document, offsets = b"%PDF-1.4\n", []
    for number, item in enumerate(objects, 1):
        offsets.append(len(document))
        document += b"%d 0 obj%sendobj\n" % (number, item)
    table = b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return document + table + b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % len(document)
