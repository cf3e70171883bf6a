"""What a failure is about, whether another provider may serve the request, and what it counts against.

One table, one function a provider that finds the row. Sources: Anthropic's error reference, Claude Code's gateway
protocol, botocore's service model of bedrock-runtime; the texts are those that clients have reported.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Counts = Literal["nothing", "access_key", "credential"]
RECHECK_SECONDS = 60.0  # when the provider says that capacity remains, its full reset time is a guess


class Subject(StrEnum):
    """What is to blame."""

    REQUEST = "request"
    CLIENT_CREDENTIAL = "client_credential"
    OUR_CREDENTIAL = "our_credential"
    MODEL = "model"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table. `counts` says which circuit a failure moves: of the access key, or of the credential."""

    subject: Subject
    fallback: bool
    counts: Counts


@dataclass(frozen=True, slots=True)
class Verdict:
    """A failure, judged. `cool_down` is the number of seconds the provider named, None when it named none."""

    kind: str
    subject: Subject
    fallback: bool
    counts: Counts
    cool_down: float | None = None


# A limit that belongs to a shared credential counts against that credential, for all who use it.
TABLE: Mapping[str, Rule] = {
    "rate_limited": Rule(Subject.CLIENT_CREDENTIAL, True, "access_key"),
    "spend_limit": Rule(Subject.CLIENT_CREDENTIAL, True, "access_key"),
    "tier_limit": Rule(Subject.REQUEST, True, "nothing"),  # long context and the like: the next request may pass
    "overloaded": Rule(Subject.PROVIDER, True, "access_key"),
    "server_error": Rule(Subject.PROVIDER, True, "access_key"),
    "not_an_api_answer": Rule(Subject.PROVIDER, True, "access_key"),  # a page from a CDN, a redirect
    "timeout": Rule(Subject.PROVIDER, True, "access_key"),
    "connect": Rule(Subject.PROVIDER, True, "access_key"),
    "cut": Rule(Subject.PROVIDER, True, "access_key"),
    "protocol": Rule(Subject.PROVIDER, True, "access_key"),
    "credential_refused": Rule(Subject.CLIENT_CREDENTIAL, False, "nothing"),
    "own_credential_refused": Rule(Subject.OUR_CREDENTIAL, True, "credential"),
    "own_credential_unavailable": Rule(Subject.OUR_CREDENTIAL, True, "nothing"),  # KMS or STS is away
    "model_not_found": Rule(Subject.MODEL, False, "nothing"),
    "model_unavailable": Rule(Subject.MODEL, True, "nothing"),  # not mapped, not enabled, not in this region
    "unknown_operation": Rule(Subject.MODEL, True, "nothing"),
    "unsupported": Rule(Subject.REQUEST, True, "nothing"),  # one provider lacks what the other has
    "budget_exceeded": Rule(Subject.REQUEST, True, "nothing"),  # a provider that does not count may still serve
    "request_rejected": Rule(Subject.REQUEST, False, "nothing"),
}
_SHARED_COUNTS = ("rate_limited", "spend_limit")
_TRANSPORT = {
    "connect": "connect",
    "connect_timeout": "timeout",
    "write_timeout": "timeout",
    "first_byte_timeout": "timeout",
    "idle_timeout": "timeout",
    "cut": "cut",
    "protocol": "protocol",
    "credential": "own_credential_unavailable",
}
_SPEND = re.compile(r"specified API usage limits|out of extra usage|credit balance is too low", re.IGNORECASE)
_TIER = re.compile(r"extra usage is required for long context", re.IGNORECASE)
_BY_ERROR_TYPE = {
    "overloaded_error": "overloaded",
    "rate_limit_error": "rate_limited",
    "billing_error": "spend_limit",
    "timeout_error": "timeout",
    "api_error": "server_error",
    "authentication_error": "credential_refused",
    "permission_error": "credential_refused",
    "not_found_error": "model_not_found",
    "invalid_request_error": "request_rejected",
    "request_too_large": "request_rejected",
}
_BY_AWS_NAME = {
    "ThrottlingException": "rate_limited",
    "ServiceQuotaExceededException": "rate_limited",
    "ModelNotReadyException": "overloaded",
    "ServiceUnavailableException": "overloaded",
    "InternalServerException": "server_error",
    "ModelErrorException": "server_error",
    "ModelStreamErrorException": "server_error",
    "ModelTimeoutException": "timeout",
    "AccessDeniedException": "own_credential_refused",
    "UnrecognizedClientException": "own_credential_refused",
    "InvalidClientTokenId": "own_credential_refused",
    "ExpiredTokenException": "own_credential_refused",
    "IncompleteSignatureException": "own_credential_refused",
    "InvalidSignatureException": "own_credential_refused",
    "MissingAuthenticationTokenException": "own_credential_refused",
    "ResourceNotFoundException": "model_unavailable",
    "UnknownOperationException": "unknown_operation",
    "ValidationException": "unsupported",
}


def verdict(kind: str, *, shared_credential: bool = False, cool_down: float | None = None) -> Verdict:
    """The row of a kind, as it applies to a credential that one client brings or that many share."""
    rule = TABLE[kind]
    if kind in _SHARED_COUNTS and shared_credential:
        return Verdict(kind, Subject.OUR_CREDENTIAL, rule.fallback, "credential", cool_down)
    return Verdict(kind, rule.subject, rule.fallback, rule.counts, cool_down)


def of_transport(kind: str, *, shared_credential: bool = False) -> Verdict:
    """No answer: the connection failed, ended or was silent. `kind` is a `FailureKind`."""
    return verdict(_TRANSPORT[kind], shared_credential=shared_credential)


def of_plan_answer(
    status: int,
    headers: Mapping[bytes, bytes],
    *,
    error: Mapping[str, object] | None,
    shared_credential: bool,
    now: float,
) -> Verdict:
    """An answer of Anthropic that is no success. `error` is the body's error object, None when there is none.

    `now` is Unix time in seconds.
    """
    kind = _plan_kind(status, error)
    if kind == "credential_refused" and shared_credential:
        kind = "own_credential_refused"
    return verdict(kind, shared_credential=shared_credential, cool_down=cool_down(headers, now))


def of_stream_error(error_type: str, *, shared_credential: bool) -> Verdict:
    """An error event inside an answer with status 200."""
    kind = _BY_ERROR_TYPE.get(error_type, "server_error")
    if kind == "credential_refused" and shared_credential:
        kind = "own_credential_refused"
    return verdict(kind, shared_credential=shared_credential)


def of_bedrock_answer(status: int, name: str, *, cool_down: float | None = None) -> Verdict:
    """An error of Bedrock, by the name AWS gives it, else by its status. The credential is never the client's own."""
    kind = _BY_AWS_NAME.get(name)
    if kind is None:
        kind = _bedrock_kind(status)
    return verdict(kind, cool_down=cool_down)


def cool_down(headers: Mapping[bytes, bytes], now: float) -> float | None:
    """Seconds until the provider expects to serve again, None when it does not say.

    `retry-after` of a subscription's limit is the full time to its reset, although requests pass again much earlier
    while `fallback-percentage` is above zero: then one minute.
    """
    prefix = b"anthropic-ratelimit-unified-"
    named = _number(headers.get(b"retry-after"))
    if named is None and headers.get(prefix + b"status") == b"rejected":
        reset = _number(headers.get(prefix + b"reset"))
        named = None if reset is None else max(0.0, reset - now)
    remains = (_number(headers.get(prefix + b"fallback-percentage")) or 0) > 0
    if remains or headers.get(prefix + b"status") in (b"allowed", b"allowed_warning"):
        return min(named, RECHECK_SECONDS) if named is not None else RECHECK_SECONDS
    return named


def _plan_kind(status: int, error: Mapping[str, object] | None) -> str:
    if 300 <= status < 400 or error is None:
        return "not_an_api_answer"
    message = str(error.get("message", ""))
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    if status == 402 or (status == 400 and _SPEND.search(message)) or code == "enforced_spend_limit_reached":
        return "spend_limit"
    if status == 429:
        return "tier_limit" if _TIER.search(message) else "rate_limited"
    if status == 529 or error.get("type") == "overloaded_error":
        return "overloaded"
    if status in (401, 403):
        return "credential_refused"
    if status in (408, 504):
        return "timeout"
    if status >= 500:
        return "server_error"
    return "model_not_found" if status == 404 else "request_rejected"


def _bedrock_kind(status: int) -> str:
    if status in (401, 403):
        return "own_credential_refused"
    if status == 404:
        return "model_unavailable"
    if status in (429, 503, 529):
        return "rate_limited" if status == 429 else "overloaded"
    if status in (408, 504):
        return "timeout"
    if status >= 500 or status == 424:
        return "server_error"
    return "unsupported" if status in (400, 422) else "request_rejected"


def _number(value: bytes | None) -> float | None:
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < 1e11 else None
