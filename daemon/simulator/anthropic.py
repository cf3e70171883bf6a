"""A simulated Anthropic API: for the demo, for tests, and for trying a deployment without spending anything."""

from pathlib import Path
from typing import Any

from daemon.simulator.answers import error, events, message, sse
from daemon.simulator.base import Request, Simulator, broken_off, failure_point, json_answer, odd_answer, parsed
from daemon.simulator.binding import mismatch
from daemon.simulator.delivery import Answer, Part
from daemon.simulator.prompts import without_attribution
from daemon.simulator.script import Step

MODELS = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5")
SSE_HEADERS = (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"))
_LIMITS = (
    ("anthropic-ratelimit-requests-limit", "4000"),
    ("anthropic-ratelimit-requests-remaining", "3999"),
    ("anthropic-organization-id", "org_simulated"),
)


class AnthropicSimulator(Simulator):
    """The Messages API of Anthropic. With `bound_thinking` it minds thinking blocks of rewritten conversations."""

    def __init__(self, log_path: Path | None = None, *, bound_thinking: bool = False) -> None:
        super().__init__(log_path)
        self._bound_thinking = bound_thinking
        self._number = 0

    def answer(self, request: Request) -> Answer:
        """What the API says to a request."""
        self._number += 1
        request_id = f"req_sim_{self._number:08d}"
        identity = (("request-id", request_id),)
        match request.path:
            case "/v1/messages":
                return self._messages(request, request_id)
            case "/v1/messages/count_tokens":
                log = {"kind": "count_tokens", "request_id": request_id}
                return json_answer(200, {"input_tokens": max(1, len(request.body) // 4)}, identity, log=log)
            case "/v1/models":
                return json_answer(200, _models(), identity)
            case "/api/hello":
                return json_answer(200, {}, identity)
            case _:
                return json_answer(404, error("not_found_error", "no such path", request_id), identity)

    def _messages(self, request: Request, request_id: str) -> Answer:
        identity = ("request-id", request_id)
        body = parsed(request.body)
        log: dict[str, Any] = {
            "kind": "messages",
            "request_id": request_id,
            "model": (body or {}).get("model"),
            "stream": (body or {}).get("stream") is True,
            "usage": None,
        }

        def refused(status: int, kind: str, text: str) -> Answer:
            return json_answer(status, error(kind, text, request_id), [identity], log=log)

        if request.auth == "none":
            return refused(401, "authentication_error", "x-api-key header is required")
        if body is None:
            return refused(400, "invalid_request_error", "The request body is not valid JSON")
        body = without_attribution(body)
        broken = mismatch(str(body.get("model")), body, request.betas) if self._bound_thinking else None
        if broken is not None:
            return refused(400, "invalid_request_error", broken)
        try:
            step = self.next_step(request, body)
        except ValueError as problem:
            return refused(400, "invalid_request_error", f"x-sim-script: {problem}")
        return self._scripted(step, body, len(request.body), log, identity)

    def _scripted(
        self, step: Step, body: dict[str, Any], size: int, log: dict[str, Any], identity: tuple[str, str]
    ) -> Answer:
        extra = (identity, *step.headers.items())
        odd = odd_answer(step, extra, log)
        if odd is not None:
            return odd
        if step.status != 200:
            document = error(step.error_type, step.message, identity[1])
            return json_answer(step.status, document, extra, step=step, log=log)
        model = body.get("model")
        whole = message(step, body, model=model, prompt_bytes=size, cache=self.cache.use(model, body), origin="sim")
        log |= {"model": whole["model"], "usage": whole["usage"]}
        if body.get("stream") is not True:
            return json_answer(200, whole, (*_LIMITS, *extra), step=step, log=log)
        return sse_answer(step, whole, (*_LIMITS, *extra), log)


def sse_answer(step: Step, whole: dict[str, Any], headers: tuple[tuple[str, str], ...], log: dict[str, Any]) -> Answer:
    """A message as server-sent events, broken off by an error event if the script says so."""
    after = failure_point(step)
    failure = Part(sse(error(step.error_event or _error_type(step.exception_frame), step.message)))
    parts = broken_off((Part(sse(event), event) for event in events(whole)), after, failure)
    ended = "finished" if after is None else "error_event"
    return Answer(200, (*SSE_HEADERS, *headers), parts, streamed=True, step=step, ended=ended, log=log)


def _error_type(exception: str | None) -> str:
    """The error type a modeled exception of the event stream would be in server-sent events."""
    return (
        "overloaded_error" if exception in (None, "throttlingException", "serviceUnavailableException") else "api_error"
    )


def _models() -> dict[str, Any]:
    data = [
        {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"} for name in MODELS
    ]
    return {"data": data, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
