"""What the simulated providers share: scripting, the log of what was served, and control over HTTP.

Answers are scripted from Python (`script`), over `POST /_sim/script`, or by the request header `x-sim-script`; without
a script they follow a small scenario. The log is append-only and says what was really sent; tests take it for the
truth.
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.protocol.asgi import Receive, Scope, Send
from daemon.simulator.answers import compact
from daemon.simulator.caching import PromptCache
from daemon.simulator.credentials import auth_kind
from daemon.simulator.delivery import Answer, Delivery, Part
from daemon.simulator.scenario import scenario
from daemon.simulator.script import Step, step_from, steps_from

ABORT = "simulator.abort"  # ASGI extension: resets the connection
UNKNOWN_OPERATION = {"Output": {"__type": "com.amazon.coral.service#UnknownOperationException"}, "Version": "1.0"}
_JSON = ("content-type", "application/json")


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came. `path` is still percent-encoded; names of headers are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def auth(self) -> str:
        """The kind of credential sent."""
        return auth_kind(self.headers)

    @property
    def betas(self) -> tuple[str, ...]:
        """The beta flags of the header."""
        return tuple(name.strip() for name in self.headers.get("anthropic-beta", "").split(",") if name.strip())


class Simulator:
    """An ASGI application. `log` holds what was served, newest last."""

    def __init__(self, log_path: Path | None = None) -> None:
        self._log_path = log_path
        self._steps: deque[Step] = deque()
        self.cache = PromptCache()
        self.log: list[dict[str, Any]] = []

    def script(self, *steps: Step) -> None:
        """The next answers, in order."""
        self._steps.extend(steps)

    def reset(self) -> None:
        """Forget script, log and prompt cache; a log file stays as it is."""
        self._steps.clear()
        self.log.clear()
        self.cache.clear()

    def answer(self, request: Request) -> Answer:
        """What this provider says to a request."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = _request(scope, await _read(receive))
        control = request.path.startswith("/_sim/")
        answer = self._controlled(request) if control else self.answer(request)
        delivery = Delivery(answer, receive, send, scope.get("extensions", {}).get(ABORT, _nothing))
        try:
            await delivery.run()
        finally:
            if answer.log is not None:
                self._write(_entry(request, answer.log, delivery))

    def next_step(self, request: Request, body: Mapping[str, Any]) -> Step:
        """The step for a request that is due an answer.

        Raises:
            ValueError: when its `x-sim-script` is wrong.
        """
        if "x-sim-script" in request.headers:
            return step_from(request.headers["x-sim-script"])
        return self._steps.popleft() if self._steps else scenario(body)

    def _controlled(self, request: Request) -> Answer:
        match request.path:
            case "/_sim/script":
                try:
                    self.script(*steps_from(request.body))
                except ValueError as problem:
                    return json_answer(400, {"error": str(problem)})
                return json_answer(200, {"queued": len(self._steps)})
            case "/_sim/log":
                return json_answer(200, self.log)
            case "/_sim/reset" if request.method == "POST":
                self.reset()
                return json_answer(200, {})
            case _:
                return json_answer(404, {"error": "no such path"})

    def _write(self, entry: dict[str, Any]) -> None:
        self.log.append(entry)
        if self._log_path is not None:
            with self._log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")


def json_answer(
    status: int,
    document: object,
    headers: Iterable[tuple[str, str]] = (),
    *,
    step: Step | None = None,
    log: Mapping[str, Any] | None = None,
) -> Answer:
    """A JSON document as an answer; a message counts as known to the client once all of it was sent."""
    known = document if isinstance(document, dict) and document.get("type") == "message" else None
    parts = (Part(compact(document), known),)
    ended = "finished" if status < 400 else "error"
    return Answer(status, (_JSON, *headers), parts, step=step or Step(), log=log, ended=ended)


def odd_answer(step: Step, headers: Iterable[tuple[str, str]], log: Mapping[str, Any]) -> Answer | None:
    """The answers a script can ask for that no provider's own format covers, else nothing."""
    if step.html:
        parts = (Part(b"<html>busy</html>"),)
        head = (("content-type", "text/html"), *headers)
        return Answer(step.status, head, parts, step=step, log=log, ended="error")
    if step.unknown_operation:
        made = json_answer(200, UNKNOWN_OPERATION, headers, step=step, log=log)
        return Answer(200, made.headers, made.parts, step=step, log=log, ended="error")
    if step.raw_error is not None:
        return json_answer(step.status, step.raw_error, headers, step=step, log=log)
    return None


def broken_off(events: Iterable[Part], after: int | None, failure: Part) -> Iterator[Part]:
    """The events, with the failure instead of the rest after so many of them; `None` means no failure."""
    for number, part in enumerate(events):
        if number == after:
            break
        yield part
    if after is not None:
        yield failure


def failure_point(step: Step) -> int | None:
    """After how many events the script wants the stream to fail, if it does."""
    if step.exception_frame is not None or step.exception_after is not None:
        return step.exception_after or 0
    if step.error_event is not None or step.error_event_after is not None:
        return step.error_event_after or 0
    return None


def parsed(body: bytes) -> dict[str, Any] | None:
    """A JSON object, or nothing."""
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _entry(request: Request, fields: Mapping[str, Any], delivery: Delivery) -> dict[str, Any]:
    body = parsed(request.body) or {}
    listed = body.get("anthropic_beta")
    return {
        "at": time.time(),
        "path": request.path,
        "auth": request.auth,
        "betas": [*request.betas, *(listed if isinstance(listed, list) else [])],
        "body": sorted(body),
        "body_sha256": hashlib.sha256(request.body).hexdigest(),
        "headers": sorted(set(request.headers) - {"authorization", "x-api-key"}),
        **fields,
        "status": delivery.status,
        "ended": delivery.ended,
        "bytes_sent": delivery.bytes_sent,
        "message_id": delivery.message_id,
        "usage_sent": delivery.usage,
        "tool_uses": delivery.tool_uses,
    }


def _request(scope: Scope, body: bytes) -> Request:
    headers: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").lower()
        text = value.decode("latin-1")
        headers[name] = f"{headers[name]},{text}" if name in headers else text
    path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    return Request(scope["method"], path, scope["query_string"].decode("latin-1"), headers, body)


async def _read(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    while True:
        part = await receive()
        chunks.append(part.get("body", b""))
        if not part.get("more_body"):
            return b"".join(chunks)


def _nothing() -> None:
    pass
