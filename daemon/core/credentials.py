"""Credentials for Amazon Bedrock: what an operator registers, and its form before it is sealed."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import orjson

AuthKind = Literal["api_key", "iam", "assume_role", "ambient"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A Bedrock API key, sent as a bearer token."""

    token: str = field(repr=False)
    kind: Literal["api_key"] = "api_key"


@dataclass(frozen=True, slots=True)
class IamKeys:
    """An IAM access key, temporary when it has a session token."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    kind: Literal["iam"] = "iam"


@dataclass(frozen=True, slots=True)
class AssumeRole:
    """A role that the daemon's own AWS credentials assume."""

    role_arn: str
    external_id: str | None = field(default=None, repr=False)
    kind: Literal["assume_role"] = "assume_role"


@dataclass(frozen=True, slots=True)
class Ambient:
    """The daemon's own AWS credentials: environment, profile, container or instance role."""

    kind: Literal["ambient"] = "ambient"


BedrockCredential = ApiKey | IamKeys | AssumeRole | Ambient
_KINDS: dict[str, type[Any]] = {"api_key": ApiKey, "iam": IamKeys, "assume_role": AssumeRole, "ambient": Ambient}


def encode_credential(credential: BedrockCredential) -> bytes:
    """The credential as JSON: what is sealed."""
    return orjson.dumps(asdict(credential))


def decode_credential(payload: bytes) -> BedrockCredential:
    """The inverse of `encode_credential`.

    Raises:
        ValueError: the payload is not an encoded credential; the message holds nothing of it.
    """
    try:
        raw: dict[str, Any] = orjson.loads(payload)
        credential: BedrockCredential = _KINDS[raw["kind"]](**raw)
    except (KeyError, TypeError, ValueError):
        raise ValueError("not a Bedrock credential") from None
    return credential
