"""A simulated Amazon Bedrock: the Messages route, the invoke routes, counting tokens and listing profiles."""

import base64
import binascii
import itertools
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote

from daemon.simulator import awserrors, documents, eventstream
from daemon.simulator.answers import compact, events, message
from daemon.simulator.anthropic import sse_answer
from daemon.simulator.base import (
    UNKNOWN_OPERATION,
    Request,
    Simulator,
    broken_off,
    failure_point,
    json_answer,
    odd_answer,
    parsed,
)
from daemon.simulator.binding import mismatch
from daemon.simulator.credentials import access_key_of, signature_is_right
from daemon.simulator.delivery import Answer, Part
from daemon.simulator.models import BASES, DEFAULT_BASE, Model, default_profiles, model_of
from daemon.simulator.rules import REFUSED_BETAS, Asked, refusal
from daemon.simulator.script import Step

_MOST_BYTES = 20_000_000
_PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_INVALID_ID = "The provided model identifier is invalid."
_ON_DEMAND = (
    "Invocation of model ID {} with on-demand throughput isn’t supported. Retry your request with the ID or ARN of an "
    "inference profile that contains this model."
)


class _Refused(Exception):
    """The request is answered with this error."""

    def __init__(self, name: str, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.name = name
        self.text = text
        self.status = status or awserrors.STATUSES[name]


@dataclass(frozen=True, slots=True)
class _Call:
    """One request: what it asks for, how its answer is identified, and what the log will say of it."""

    request: Request
    route: Literal["messages", "invoke"]
    model_id: str
    stream: bool
    headers: tuple[tuple[str, str], ...]
    log: dict[str, Any]

    def failed(self, status: int, name: str, text: str, step: Step | None = None) -> Answer:
        """An error in the form of the route."""
        extra = tuple(step.headers.items()) if step else ()
        if self.route == "messages":
            document: object = awserrors.envelope(status, text)
            return json_answer(status, document, (*self.headers, *extra), step=step, log=self.log)
        document, named = awserrors.aws_body(name, text)
        return json_answer(status, document, (*self.headers, named, *extra), step=step, log=self.log)


class BedrockSimulator(Simulator):
    """Amazon Bedrock. `strict=False` turns off every check of credentials, models and fields.

    `secrets` maps ids of access keys to secrets, `api_keys` lists Bedrock API keys; what is given is checked, `None`
    takes any. `profiles` are the inference profiles that exist, `arns` the models behind application profiles, and
    `refused_betas` patterns of the beta flags that are not accepted. With `bound_thinking` it minds thinking blocks of
    rewritten conversations.
    """

    def __init__(
        self,
        log_path: Path | None = None,
        *,
        strict: bool = True,
        secrets: Mapping[str, str] | None = None,
        api_keys: Iterable[str] | None = None,
        profiles: Iterable[str] | None = None,
        arns: Mapping[str, str] | None = None,
        refused_betas: tuple[str, ...] = REFUSED_BETAS,
        bound_thinking: bool = False,
    ) -> None:
        super().__init__(log_path)
        self._strict = strict
        self._secrets = secrets
        self._api_keys = None if api_keys is None else frozenset(api_keys)
        self._profiles = default_profiles() if profiles is None else frozenset(profiles)
        self._arns = dict(arns or {})
        self._refused_betas = refused_betas
        self._bound_thinking = bound_thinking
        self._frames = itertools.count()

    def answer(self, request: Request) -> Answer:
        """What Bedrock says to a request."""
        call = _call(request)
        try:
            self._authenticate(call)
            match call.log["kind"]:
                case "messages":
                    return self._message(call)
                case "count_tokens":
                    return self._count(call)
                case "inference_profiles":
                    return self._list_profiles(call)
                case _:
                    return json_answer(200 if call.route == "messages" else 404, UNKNOWN_OPERATION, call.headers,
                                       log=call.log)  # fmt: skip
        except _Refused as refused:
            return call.failed(refused.status, refused.name, refused.text)

    def _authenticate(self, call: _Call) -> None:
        if not self._strict:
            return
        request = call.request
        match request.auth:
            case "both":
                raise _Refused("ValidationException", "Cannot provide both an x-api-key and an Authorization header.")
            case "x-api-key" if call.route == "messages":
                self._check_api_key(request.headers["x-api-key"])
            case "bearer":
                self._check_api_key(request.headers["authorization"][7:].strip())
            case "sigv4":
                self._check_signature(request)
            case _:
                raise _Refused("MissingAuthenticationTokenException", "Missing Authentication Token")

    def _check_api_key(self, key: str) -> None:
        if self._api_keys is not None and key not in self._api_keys:
            text = "Authentication failed: Please make sure your API Key is valid."
            raise _Refused("AccessDeniedException", text)

    def _check_signature(self, request: Request) -> None:
        if self._secrets is None:
            return
        secret = self._secrets.get(access_key_of(request.headers) or "")
        if secret is None:
            raise _Refused("UnrecognizedClientException", "The security token included in the request is invalid.")
        if not signature_is_right(
            request.method, request.path, request.query, request.headers, request.body, secret=secret, service="bedrock"
        ):
            text = (
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
                "Access Key and signing method. Consult the service documentation for details."
            )
            raise _Refused("InvalidSignatureException", text)

    def _model(self, call: _Call) -> Model:
        """The model of a request for a message."""
        named = call.model_id
        if named.startswith("arn:") and call.route == "invoke":
            return model_of(self._arns.get(named, DEFAULT_BASE))
        if not self._strict or (named in self._profiles and (call.route == "invoke" or model_of(named).recent)):
            return model_of(named)
        if named in self._profiles:
            raise _Refused("ResourceNotFoundException", f"model: {named}")
        if named in BASES and call.route == "invoke":
            raise _Refused("ValidationException", _ON_DEMAND.format(named))
        raise _Refused("ValidationException", _INVALID_ID)

    def _message(self, call: _Call) -> Answer:
        request = call.request
        if len(request.body) > _MOST_BYTES:
            raise _Refused("RequestEntityTooLargeException", "Request body is too large.")
        body = parsed(request.body)
        if body is None:
            raise _Refused("ValidationException", "The request body is not valid JSON.")
        model = self._model(call)
        asked = Asked(call.route, model, body, _betas(call.route, request, body))
        objection = refusal(asked, self._refused_betas) if self._strict else None
        if objection is None and self._bound_thinking:
            objection = mismatch(model.name, body, asked.betas)
        if objection is not None:
            raise _Refused("ValidationException", objection)
        try:
            step = self.next_step(request, body)
        except ValueError as problem:
            raise _Refused("ValidationException", f"x-sim-script: {problem}") from problem
        return self._scripted(call, step, model, body)

    def _scripted(self, call: _Call, step: Step, model: Model, body: dict[str, Any]) -> Answer:
        extra = (*call.headers, *step.headers.items())
        odd = odd_answer(step, extra, call.log)
        if odd is not None:
            return odd
        failure = awserrors.scripted_error(step)
        if failure is None and step.exception_frame is not None and call.route == "invoke" and not call.stream:
            name = step.exception_frame[:1].upper() + step.exception_frame[1:]
            failure = (awserrors.STATUSES.get(name, 500), name, awserrors.message_of(step, name))
        if failure is not None:
            return call.failed(*failure, step)
        cache = self.cache.use(model.name, body)
        size = len(call.request.body)
        whole = message(step, body, model=model.name, prompt_bytes=size, cache=cache, origin="bdrk")
        call.log.update(model=whole["model"], usage=whole["usage"])
        if call.stream and call.route == "messages":
            return sse_answer(step, whole, extra, call.log)
        if call.stream:
            return self._event_stream(step, whole, extra, call.log)
        counts = () if call.route == "messages" else documents.count_headers(whole["usage"])
        return json_answer(200, whole, (*extra, *counts), step=step, log=call.log)

    def _event_stream(
        self, step: Step, whole: dict[str, Any], headers: tuple[tuple[str, str], ...], log: dict[str, Any]
    ) -> Answer:
        after = failure_point(step)
        parts = broken_off(self._chunks(whole), after, Part(_failure_frame(step)))
        head = (
            ("content-type", eventstream.CONTENT_TYPE),
            ("x-amzn-bedrock-content-type", "application/json"),
            *headers,
        )
        ended = "finished" if after is None else "exception_frame"
        return Answer(200, head, parts, streamed=True, step=step, ended=ended, log=log)

    def _chunks(self, whole: dict[str, Any]) -> Iterator[Part]:
        """The events of a message in frames, with the metrics Bedrock adds to the last of them."""
        for event in events(whole, ping=False):
            if event["type"] == "message_stop":
                event["amazon-bedrock-invocationMetrics"] = documents.metrics(whole["usage"])
            padding = _PADDING[: 1 + next(self._frames) * 7 % len(_PADDING)]
            yield Part(eventstream.chunk(compact(event), padding), event)

    def _count(self, call: _Call) -> Answer:
        """Tokens of a wrapped invoke body; only older models can, and only by their bare id."""
        if self._strict and call.model_id not in BASES:
            raise _Refused("ValidationException", _INVALID_ID)
        if self._strict and model_of(call.model_id).recent:
            raise _Refused("ValidationException", "The provided model doesn't support counting tokens")
        given = (parsed(call.request.body) or {}).get("input")
        try:
            body = base64.b64decode(given["invokeModel"]["body"], validate=True)  # type: ignore[index]
        except (TypeError, KeyError, binascii.Error) as problem:
            raise _Refused("ValidationException", "input: Field required") from problem
        asked = parsed(body)
        missing = [name for name in ("anthropic_version", "max_tokens", "messages") if name not in (asked or {})]
        if missing:
            raise _Refused("ValidationException", f"{missing[0]}: Field required")
        return json_answer(200, {"inputTokens": max(1, len(body) // 4)}, call.headers, log=call.log)

    def _list_profiles(self, call: _Call) -> Answer:
        query = parse_qs(call.request.query)
        wanted = query.get("type", ["SYSTEM_DEFINED"])[0] == "SYSTEM_DEFINED"
        profiles = sorted(self._profiles) if wanted else []
        try:
            start, size = int(query.get("nextToken", ["0"])[0]), int(query.get("maxResults", ["1000"])[0])
        except ValueError as problem:
            raise _Refused("ValidationException", "Invalid nextToken or maxResults") from problem
        document: dict[str, Any] = {
            "inferenceProfileSummaries": [documents.summary(profile) for profile in profiles[start : start + size]]
        }
        if start + size < len(profiles):
            document["nextToken"] = str(start + size)
        return json_answer(200, document, call.headers, log=call.log)


def _call(request: Request) -> _Call:
    """The request sorted by its path."""
    body = parsed(request.body) or {}
    request_id = str(uuid.uuid4())
    route: Literal["messages", "invoke"] = "messages" if request.path.startswith("/anthropic/") else "invoke"
    kind, model_id, stream = "unknown_operation", "", False
    match (request.method, request.path.split("/")[1:]):
        case ("POST", ["anthropic", "v1", "messages"]):
            kind, model_id, stream = "messages", str(body.get("model", "")), body.get("stream") is True
        case ("POST", ["model", name, "invoke" | "invoke-with-response-stream" as operation]):
            kind, model_id, stream = "messages", unquote(name), operation != "invoke"
        case ("POST", ["model", name, "count-tokens"]):
            kind, model_id = "count_tokens", unquote(name)
        case ("GET", ["inference-profiles"]):
            kind = "inference_profiles"
    log: dict[str, Any] = {
        "kind": kind,
        "request_id": request_id,
        "model": model_id or None,
        "model_id": model_id or None,
        "stream": stream,
        "usage": None,
    }
    return _Call(request, route, model_id, stream, (("x-amzn-requestid", request_id),), log)


def _betas(route: str, request: Request, body: dict[str, Any]) -> tuple[str, ...]:
    """The beta flags that count: of the header on the Messages route, of the body when invoked."""
    if route == "messages":
        return request.betas
    listed = body.get("anthropic_beta")
    return tuple(str(name) for name in listed) if isinstance(listed, list) else ()


def _failure_frame(step: Step) -> bytes:
    if step.error_event is not None:
        return eventstream.error(step.error_event, step.message)
    kind = step.exception_frame or "internalServerException"
    return eventstream.exception(kind, awserrors.message_of(step, kind[:1].upper() + kind[1:]))
