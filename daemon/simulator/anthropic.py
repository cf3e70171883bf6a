"""A simulated Anthropic API: for the demo, for tests, and for trying a deployment without spending anything.

Answers are scripted from Python (`script`), over `POST /_sim/script`, or by the request header `x-sim-script`; without
a script they follow a small scenario. Every request to `/v1/messages` is written to an append-only log of what was
served, which tests take for the truth.
"""

import asyncio
import hashlib
import json
import time
from collections import deque
from pathlib import Path
from typing import Any

from daemon.protocol.asgi import Receive, Scope, Send
from daemon.simulator.answers import error, event, events, message
from daemon.simulator.script import Step, scenario, step_from

MODELS = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5")
_JSON = (b"content-type", b"application/json")


class AnthropicSimulator:
    """An ASGI application. `log` holds what was served, newest last."""

    def __init__(self, log_path: Path | None = None) -> None:
        self._log_path = log_path
        self._steps: deque[Step] = deque()
        self._number = 0
        self.log: list[dict[str, Any]] = []

    def script(self, *steps: Step) -> None:
        """The next answers, in order."""
        self._steps.extend(steps)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await _read(receive)
        match scope["path"]:
            case "/v1/messages":
                await self._messages(scope, body, receive, send)
            case "/v1/messages/count_tokens":
                await self._json(send, 200, {"input_tokens": max(1, len(body) // 4)})
            case "/v1/models":
                await self._json(send, 200, _models())
            case "/api/hello":
                await self._json(send, 200, {})
            case "/_sim/script":
                self.script(step_from(body))
                await self._json(send, 200, {"queued": len(self._steps)})
            case "/_sim/log":
                await self._json(send, 200, self.log)
            case _:
                await self._json(send, 404, error("not_found_error", "no such path", self._request_id()))

    async def _messages(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = self._request_id()
        if not (headers.get("x-api-key") or headers.get("authorization")):
            refusal = error("authentication_error", "x-api-key header is required", request_id)
            await self._json(send, 401, refusal, request_id)
            return
        try:
            request = json.loads(body)
        except ValueError:
            refusal = error("invalid_request_error", "The request body is not valid JSON", request_id)
            await self._json(send, 400, refusal, request_id)
            return
        step = self._next_step(headers, request)
        whole = message(step, request, len(body))
        entry: dict[str, Any] = {
            "request_id": request_id,
            "message_id": whole["id"],
            "model": whole["model"],
            "stream": request.get("stream") is True,
            "status": step.status,
            "usage": whole["usage"] if step.status == 200 else None,
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "headers": sorted(set(headers) - {"authorization", "x-api-key"}),
            "tool_uses": [block["name"] for block in whole["content"] if block["type"] == "tool_use"],
            "ended": "finished",
        }
        try:
            await self._answer(step, whole, request, request_id, receive, send)
        except _ClientGone:
            entry["ended"] = "peer_closed"
        except _Cut:
            entry["ended"] = "cut"
        finally:
            entry["at"] = time.time()
            self._write(entry)

    async def _answer(
        self, step: Step, whole: dict[str, Any], request: dict[str, Any], request_id: str, receive: Receive, send: Send
    ) -> None:
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await _wait(step.delay if not step.hang else 86_400, gone)
            extra = [(name.encode(), value.encode()) for name, value in step.headers.items()]
            if step.html:
                await self._send(send, step.status, [(b"content-type", b"text/html"), *extra], b"<html>busy</html>")
            elif step.status != 200:
                document = error(step.error_type, step.message, request_id)
                await self._json(send, step.status, document, request_id, extra)
            elif request.get("stream") is True:
                await self._stream(step, whole, request_id, extra, gone, send)
            else:
                await self._json(send, 200, whole, request_id, [*_limits(), *extra])
        finally:
            gone.cancel()

    async def _stream(
        self,
        step: Step,
        whole: dict[str, Any],
        request_id: str,
        extra: list[tuple[bytes, bytes]],
        gone: "asyncio.Future[None]",
        send: Send,
    ) -> None:
        kind = (b"content-type", b"text/event-stream; charset=utf-8")
        head = [kind, (b"cache-control", b"no-cache"), (b"request-id", request_id.encode()), *_limits(), *extra]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        if step.error_event is not None:
            failed = event("error", error={"type": step.error_event, "message": step.message})
            await send({"type": "http.response.body", "body": failed})
            return
        sent = 0
        for block in events(whole):
            if step.cut_at is not None and sent + len(block) >= step.cut_at:
                await send({"type": "http.response.body", "body": block[: step.cut_at - sent], "more_body": True})
                raise _Cut
            await send({"type": "http.response.body", "body": block, "more_body": True})
            sent += len(block)
            await _wait(step.event_delay, gone)
        await send({"type": "http.response.body", "body": b""})

    def _next_step(self, headers: dict[str, str], request: dict[str, Any]) -> Step:
        if "x-sim-script" in headers:
            return step_from(headers["x-sim-script"])
        return self._steps.popleft() if self._steps else scenario(request)

    def _request_id(self) -> str:
        self._number += 1
        return f"req_sim_{self._number:08d}"

    def _write(self, entry: dict[str, Any]) -> None:
        self.log.append(entry)
        if self._log_path is not None:
            with self._log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    async def _json(
        self,
        send: Send,
        status: int,
        document: object,
        request_id: str | None = None,
        extra: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        identity = [(b"request-id", (request_id or self._request_id()).encode())]
        await self._send(send, status, [_JSON, *identity, *(extra or [])], json.dumps(document).encode())

    async def _send(self, send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _ClientGone(Exception):
    """The client closed the connection."""


class _Cut(Exception):
    """The script says to break off. Leaving the application without an end makes the server cut the connection."""


async def _read(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    while True:
        part = await receive()
        chunks.append(part.get("body", b""))
        if not part.get("more_body"):
            return b"".join(chunks)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _wait(seconds: float, gone: "asyncio.Future[None]") -> None:
    if seconds:
        await asyncio.wait([gone], timeout=seconds)
    if gone.done():
        raise _ClientGone


def _limits() -> list[tuple[bytes, bytes]]:
    return [
        (b"anthropic-ratelimit-requests-limit", b"4000"),
        (b"anthropic-ratelimit-requests-remaining", b"3999"),
        (b"anthropic-organization-id", b"org_simulated"),
    ]


def _models() -> dict[str, Any]:
    data = [
        {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"} for name in MODELS
    ]
    return {"data": data, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
