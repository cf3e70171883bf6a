"""Bedrock's errors in the words that Claude Code understands.

The client recovers by matching Anthropic's wording, which Bedrock does not use: an error of a known class is replaced
by `capability_rejected: <class>`. Account ids and ARNs never go out. Sources: botocore's service model of
bedrock-runtime, Claude Code's gateway protocol.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

_ERROR_HEADER = b"x-amzn-errortype"
_TYPES: Mapping[str, tuple[int, str]] = {
    "ValidationException": (400, "invalid_request_error"),
    "ServiceQuotaExceededException": (429, "rate_limit_error"),
    "ThrottlingException": (429, "rate_limit_error"),
    "ModelNotReadyException": (529, "overloaded_error"),
    "ServiceUnavailableException": (529, "overloaded_error"),
    "ResourceNotFoundException": (404, "not_found_error"),
    "ModelTimeoutException": (504, "timeout_error"),
    "ModelErrorException": (500, "api_error"),
    "ModelStreamErrorException": (500, "api_error"),
    "InternalServerException": (500, "api_error"),
}
_BY_STATUS: Mapping[int, tuple[int, str]] = {
    400: (400, "invalid_request_error"),
    404: (404, "not_found_error"),
    408: (504, "timeout_error"),
    413: (413, "request_too_large"),
    422: (400, "invalid_request_error"),
    429: (429, "rate_limit_error"),
    503: (529, "overloaded_error"),
    529: (529, "overloaded_error"),
}
_OWN_CREDENTIAL = (
    "AccessDeniedException",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "ExpiredTokenException",
    "IncompleteSignatureException",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
)
# In this order: the first that matches names the class.
_CAPABILITIES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("mid_conv_system", r"messages\.\d+\.role|role ['\"`]?system['\"`]?"),
        ("cache_control_field", r"cache_control"),
        ("thinking_signature", r"signature"),
        ("thinking_type:enabled", r"thinking\.type\.enabled"),
        ("thinking_type:adaptive", r"adaptive thinking is not supported|thinking\.type\.adaptive"),
        ("structured_outputs_unsupported", r"output_config\.format|output_format|\.strict\b"),
        ("effort_unsupported", r"output_config\.effort|\beffort\b"),
        ("media_budget", r"too many (images|documents|media)|(image|media).{0,40}(exceed|maximum)"),
        ("image_block", r"\bimage\b"),
        ("document_block", r"\bdocument\b|\bpdf\b"),
        ("prompt_too_long", r"input is too long|prompt is too long|too many input tokens"),
        ("max_tokens_context_overflow", r"max_tokens.{0,80}(context|exceed)|exceed.{0,40}context"),
    )
)
_BETA = re.compile(r"Unexpected value\(s\) [`'\"]?([\w.-]+)")
_AS_IT_IS = "Input is too long."
_SECRETIVE = re.compile(r"arn:aws[\w-]*:\S+|\b\d{12}\b")


@dataclass(frozen=True, slots=True)
class BedrockError:
    """An error: AWS's name and text, and what the client gets for it. `message` is what may go out."""

    name: str
    text: str
    status: int
    type: str
    message: str
    own_credential: bool = False
    retry_after: int | None = None


def read_error(status: int, headers: Mapping[bytes, bytes], body: bytes) -> BedrockError:
    """The error in an answer of either route."""
    name = headers.get(_ERROR_HEADER, b"").decode("latin-1").partition(":")[0]
    document = _object(body)
    envelope = document.get("error") if document.get("type") == "error" else None
    if isinstance(envelope, dict):
        text, kind = str(envelope.get("message", "")), str(envelope.get("type", "api_error"))
    else:
        text, kind = str(document.get("message") or document.get("Message") or ""), None
    if is_unknown_operation(body):
        name, text = "UnknownOperationException", "the operation is not known here"
    return named_error(name, text, status=status, envelope_type=kind)


def named_error(name: str, text: str, *, status: int, envelope_type: str | None = None) -> BedrockError:
    """The error of a name (may be empty) with its text. With `envelope_type` it came in Anthropic's own shape."""
    own = name in _OWN_CREDENTIAL or status in (401, 403)
    if own:
        out, kind = 502, "api_error"
    elif envelope_type is not None and not name:
        out, kind = _BY_STATUS.get(status, (status if status >= 400 else 502, envelope_type))[0], envelope_type
    else:
        out, kind = _TYPES.get(name) or _BY_STATUS.get(status, (500, "api_error"))
    if _is_wrong_model(text):
        out, kind = 404, "not_found_error"
    return BedrockError(
        name=name or _name_of(status),
        text=text,
        status=out,
        type=kind,
        message=_public(text, out, own=own, from_anthropic=envelope_type is not None),
        own_credential=own,
        retry_after=_retry_after(out, text),
    )


def is_unknown_operation(body: bytes) -> bool:
    """Whether an answer, whatever its status, says that the route does not exist."""
    return len(body) < 4096 and b"UnknownOperation" in body


def capability(text: str) -> str | None:
    """The class of a rejection, None when it is none that the client knows."""
    beta = _BETA.search(text)
    if beta:
        return f"beta_header:{beta[1]}"
    return next((name for name, pattern in _CAPABILITIES if pattern.search(text)), None)


def _public(text: str, status: int, *, own: bool, from_anthropic: bool) -> str:
    if own:
        return "Bedrock refused the gateway's own credential; an operator has to replace it"
    clean = _SECRETIVE.sub("…", "".join(c if c.isprintable() else " " for c in text))[:2000]
    if text == _AS_IT_IS or (from_anthropic and status in (400, 413)):
        return clean
    if status == 400:
        known = capability(text)
        if known is not None:
            return f"capability_rejected: {known}"
    return clean or f"Bedrock answered HTTP {status}"


def _is_wrong_model(text: str) -> bool:
    return "model identifier is invalid" in text or "on-demand throughput isn" in text


def _retry_after(status: int, text: str) -> int | None:
    """Bedrock names no time: a minute's quota comes back within one, a day's does not."""
    if status not in (429, 529):
        return None
    return 1800 if "per day" in text else 30 if status == 429 else 5


def _name_of(status: int) -> str:
    return {408: "ModelTimeoutException", 424: "ModelErrorException", 429: "ThrottlingException"}.get(status, "")


def _object(body: bytes) -> dict[str, object]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}
