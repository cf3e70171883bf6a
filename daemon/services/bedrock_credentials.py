"""From what an operator types to a Bedrock credential, naming the mistake when there is one. Never quotes a secret."""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn
from urllib.parse import parse_qs

from pydantic import SecretStr

from daemon.contract.bedrock_keys import BedrockKeySet
from daemon.core.credentials import Ambient, ApiKey, AssumeRole, BedrockCredential, IamKeys
from daemon.core.mapping import is_region
from daemon.services.errors import Invalid

LONG_TERM, SHORT_TERM = "ABSK", "bedrock-api-key-"
LONGEST = 4096
_SHOWN = re.compile(r"[!-~]+")
_IAM_KEY_ID = re.compile(r"(AKIA|ASIA)[A-Z0-9]{16}")
_ROLE_ARN = re.compile(r"arn:aws(-us-gov)?:iam::\d{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}")
_EXTERNAL_ID = re.compile(r"[A-Za-z0-9+=,.@:/_-]{2,1224}")
_SCOPE = re.compile(r"[^/]+/\d{8}/([^/]+)/bedrock/aws4_request")
_BELONGS = {
    "api_key": ("api_key",),
    "iam": ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
    "assume_role": ("role_arn", "external_id"),
    "ambient": (),
}
_OPTIONAL = ("aws_session_token", "external_id")


@dataclass(frozen=True, slots=True)
class Checked:
    """A credential in good shape, and what can be read off it without a call. `region` is the one it is bound to."""

    credential: BedrockCredential
    region: str | None = None
    expires_at: datetime | None = None


def check(wanted: BedrockKeySet, now: datetime) -> Checked:
    """The credential that was typed.

    Raises:
        Invalid: a field is missing, does not belong to this kind, or is not in the shape of what it should be.
    """
    _check_fields(wanted)
    if wanted.region is not None and not is_region(wanted.region):
        raise Invalid("unknown region; expected an AWS region with Bedrock, such as us-east-1", field="region")
    checked = _CHECKS[wanted.auth](wanted, now)
    if checked.region is not None and wanted.region not in (None, checked.region):
        raise Invalid(f"the key works in {checked.region} only", field="region")
    return checked


def _check_fields(wanted: BedrockKeySet) -> None:
    belongs = _BELONGS[wanted.auth]
    for fields in _BELONGS.values():
        for name in fields:
            given = getattr(wanted, name) is not None
            if given and name not in belongs:
                raise Invalid(f"does not belong to auth {wanted.auth}", field=name)
            if name in belongs and not given and name not in _OPTIONAL:
                raise Invalid(f"is required with auth {wanted.auth}", field=name)


def _api_key(wanted: BedrockKeySet, now: datetime) -> Checked:
    token = _one_word(wanted.api_key, "api_key")
    if token.startswith("sk-ant-"):
        raise Invalid("is an Anthropic API key; expected an Amazon Bedrock API key", field="api_key")
    if token.startswith("ak_"):
        raise Invalid("is an access key of this gateway; expected an Amazon Bedrock API key", field="api_key")
    if token.startswith(("AKIA", "ASIA")):
        raise Invalid("is the id of an IAM access key; register that one with auth iam", field="api_key")
    if token.startswith(SHORT_TERM):
        return _short_term(token, now)
    if not token.startswith(LONG_TERM):
        raise Invalid(f"does not begin as Amazon Bedrock API keys do: {LONG_TERM}… or {SHORT_TERM}…", field="api_key")
    if len(token) == len(LONG_TERM):
        raise Invalid("is cut off", field="api_key")
    return Checked(ApiKey(token))


def _short_term(token: str, now: datetime) -> Checked:
    """A short-term key is a presigned URL in base64: it says itself where and until when it works."""
    try:
        url = base64.b64decode(token.removeprefix(SHORT_TERM), validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise Invalid("is cut off or changed: it cannot be decoded", field="api_key") from None
    query = {name: values[-1] for name, values in parse_qs(url.partition("?")[2]).items()}
    scope = _SCOPE.fullmatch(query.get("X-Amz-Credential", ""))
    expires_at = _expiry(query.get("X-Amz-Date", ""), query.get("X-Amz-Expires", ""))
    if scope is None or expires_at is None or not query.get("X-Amz-Signature"):
        raise Invalid("is cut off or changed: a part of its signature is missing", field="api_key")
    if not is_region(scope[1]):
        raise Invalid("is bound to an unknown region", field="api_key")
    if expires_at <= now:
        raise Invalid(f"expired at {expires_at:%Y-%m-%dT%H:%M:%SZ}; make a new one", field="api_key")
    return Checked(ApiKey(token), region=scope[1], expires_at=expires_at)


def _expiry(date: str, seconds: str) -> datetime | None:
    if not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", date) or not re.fullmatch(r"[0-9]{1,6}", seconds):
        return None
    try:
        return datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) + timedelta(seconds=int(seconds))
    except (ValueError, OverflowError):
        return None


def _iam(wanted: BedrockKeySet, _: datetime) -> Checked:
    key_id = _word(wanted.aws_access_key_id or "", "aws_access_key_id")
    if not _IAM_KEY_ID.fullmatch(key_id):
        raise Invalid("expected AKIA or ASIA and 16 capital letters and digits", field="aws_access_key_id")
    secret = _one_word(wanted.aws_secret_access_key, "aws_secret_access_key")
    _refuse_other_keys(secret, "aws_secret_access_key")
    token = None
    if wanted.aws_session_token is not None:
        token = _one_word(wanted.aws_session_token, "aws_session_token")
    if key_id.startswith("ASIA") and token is None:
        raise Invalid("is required: an ASIA… key is temporary", field="aws_session_token")
    if key_id.startswith("AKIA") and token is not None:
        raise Invalid("does not belong to an AKIA… key: that one is not temporary", field="aws_session_token")
    return Checked(IamKeys(key_id, secret, token))


def _refuse_other_keys(secret: str, field: str) -> None:
    if _IAM_KEY_ID.fullmatch(secret):
        raise Invalid("is the id of an access key; expected its secret", field=field)
    if secret.startswith((LONG_TERM, SHORT_TERM)) and len(secret) != 40:  # a secret has 40 characters, any of them
        raise Invalid("is an Amazon Bedrock API key; register that one with auth api_key", field=field)
    if secret.startswith("sk-ant-"):
        raise Invalid("is an Anthropic API key; expected the secret of an IAM access key", field=field)
    if secret.startswith("ak_"):
        raise Invalid("is an access key of this gateway; expected the secret of an IAM access key", field=field)


def _assume_role(wanted: BedrockKeySet, _: datetime) -> Checked:
    arn = _word(wanted.role_arn or "", "role_arn")
    if not _ROLE_ARN.fullmatch(arn):
        raise Invalid("expected arn:aws:iam::123456789012:role/name", field="role_arn")
    external_id = None
    if wanted.external_id is not None:
        external_id = _one_word(wanted.external_id, "external_id")
        if not _EXTERNAL_ID.fullmatch(external_id):
            raise Invalid("expected 2 to 1224 letters, digits and +=,.@:/_-", field="external_id")
    return Checked(AssumeRole(arn, external_id))


def _ambient(_wanted: BedrockKeySet, _now: datetime) -> Checked:
    return Checked(Ambient())


_CHECKS: dict[str, Callable[[BedrockKeySet, datetime], Checked]] = {
    "api_key": _api_key,
    "iam": _iam,
    "assume_role": _assume_role,
    "ambient": _ambient,
}


def _one_word(secret: SecretStr | None, field: str) -> str:
    return _word(secret.get_secret_value() if secret else "", field)


def _word(text: str, field: str) -> str:
    """Text that can be a header's value and a part of one: not empty, not long, nothing but visible ASCII."""
    if not text or text.isspace():
        _refuse("is empty", field)
    if len(text) > LONGEST:
        _refuse(f"is longer than {LONGEST} characters", field)
    if any(character in "\r\n" for character in text):
        _refuse("contains a line break", field)
    if any(character.isspace() for character in text):
        _refuse("contains a space", field)
    if not _SHOWN.fullmatch(text):
        _refuse("contains a character that no key has", field)
    return text


def _refuse(message: str, field: str) -> NoReturn:
    raise Invalid(message, field=field)
