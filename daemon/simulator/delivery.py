"""An answer on its way to the client: sent, damaged as the script says, and recorded as far as it got."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from daemon.protocol.asgi import Receive, Send
from daemon.simulator.script import Step

_NEVER = 86_400.0


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a body, and the document a client knows once it has all of it."""

    data: bytes
    document: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be sent. `log` has the fields of the log entry that do not depend on how far the answer gets."""

    status: int
    headers: tuple[tuple[str, str], ...]
    parts: Iterable[Part]
    streamed: bool = False
    step: Step = field(default_factory=Step)
    ended: str = "finished"  # what the log says of it when all of it was sent
    log: Mapping[str, Any] | None = None  # None: not for the log


class Delivery:
    """Sends one answer and knows what the client got of it."""

    def __init__(self, answer: Answer, receive: Receive, send: Send, abort: Callable[[], None]) -> None:
        self._answer = answer
        self._receive = receive
        self._send = send
        self._abort = abort
        self._open_tools: dict[object, str] = {}
        self._damaged = False
        self.status: int | None = None
        self.ended = "cut"
        self.bytes_sent = 0
        self.message_id: str | None = None
        self.usage: dict[str, Any] | None = None
        self.tool_uses: list[str] = []

    async def run(self) -> None:
        """Send the answer; afterwards the attributes say what was sent."""
        gone = asyncio.ensure_future(_until_gone(self._receive))
        try:
            await self._deliver(gone)
            self.ended = self._answer.ended
        except _Stopped as stopped:
            self.ended = stopped.how
        finally:
            gone.cancel()
            if self._damaged:  # whatever came of it, this is why
                self.ended = "damaged"

    async def _deliver(self, gone: "asyncio.Future[None]") -> None:
        answer, step = self._answer, self._answer.step
        await _wait(_NEVER if step.hang else step.delay, gone)
        if step.reset:
            self._abort()
            raise _Stopped("reset")
        parts = answer.parts if answer.streamed else list(answer.parts)
        headers = [(name.encode(), value.encode()) for name, value in answer.headers]
        if isinstance(parts, list):
            headers.append((b"content-length", b"%d" % sum(len(part.data) for part in parts)))
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        self.status = answer.status
        for part in parts:
            await self._write(part, gone)
            if answer.streamed:
                await _wait(step.event_delay, gone)
        await self._send({"type": "http.response.body", "body": b""})

    async def _write(self, part: Part, gone: "asyncio.Future[None]") -> None:
        data = self._flipped(part.data)
        cut_at = self._answer.step.cut_at
        cut = cut_at is not None and self.bytes_sent + len(data) >= cut_at
        kept = data[: cut_at - self.bytes_sent] if cut and cut_at is not None else data
        await self._send({"type": "http.response.body", "body": kept, "more_body": True})
        if self._answer.streamed:  # a piece counts only if the client was still there
            await _wait(0, gone)
        self.bytes_sent += len(kept)
        if len(kept) == len(data) and not self._damaged:
            self._known(part.document or {})
        if cut:  # leaving without an end makes the server close the connection
            raise _Stopped("cut")

    def _flipped(self, data: bytes) -> bytes:
        flip_at = self._answer.step.flip_at
        if flip_at is None or not self.bytes_sent <= flip_at < self.bytes_sent + len(data):
            return data
        self._damaged = True
        damaged = bytearray(data)
        damaged[flip_at - self.bytes_sent] ^= 1
        return bytes(damaged)

    def _known(self, document: Mapping[str, Any]) -> None:
        """Take note of what the client knows now."""
        match document.get("type"):
            case "message":
                self.message_id, self.usage = document["id"], dict(document["usage"])
                self.tool_uses += [block["name"] for block in document["content"] if block["type"] == "tool_use"]
            case "message_start":
                self.message_id, self.usage = document["message"]["id"], dict(document["message"]["usage"])
            case "message_delta":
                self.usage = (self.usage or {}) | document["usage"]
            case "content_block_start" if document["content_block"]["type"] == "tool_use":
                self._open_tools[document["index"]] = document["content_block"]["name"]
            case "content_block_stop" if document["index"] in self._open_tools:
                self.tool_uses.append(self._open_tools.pop(document["index"]))


class _Stopped(Exception):
    """The answer ends here."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _wait(seconds: float, gone: "asyncio.Future[None]") -> None:
    if seconds:
        await asyncio.wait([gone], timeout=seconds)
    else:
        await asyncio.sleep(0)
    if gone.done():
        raise _Stopped("peer_closed")
