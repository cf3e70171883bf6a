"""Bedrock keys: the AWS credentials that an access key's requests go to Bedrock with. No answer holds a secret."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import SecretStr

from daemon.contract.common import Answer, Request

BedrockAuth = Literal["api_key", "iam", "assume_role", "ambient"]
BedrockRoute = Literal["auto", "messages", "invoke"]
BedrockProfile = Literal["global", "us", "eu", "jp", "au", "us-gov", "apac", "none"]


class BedrockKeySet(Request):
    """A Bedrock key to use from now on. Of the credentials, those of `auth` are wanted and no others.

    `api_key`: `api_key`. `iam`: `aws_access_key_id`, `aws_secret_access_key`, and `aws_session_token` where the key
    is temporary. `assume_role`: `role_arn`, and `external_id` where the role asks for one. `ambient`: the daemon's own.
    """

    auth: BedrockAuth
    api_key: SecretStr | None = None
    aws_access_key_id: str | None = None
    aws_secret_access_key: SecretStr | None = None
    aws_session_token: SecretStr | None = None
    role_arn: str | None = None
    external_id: SecretStr | None = None
    region: str | None = None
    route: BedrockRoute = "auto"
    profile: BedrockProfile | None = None


class BedrockKey(Answer):
    """A Bedrock key without its secret. The same credential has the same `fingerprint`.

    `key_id_hint` is the end of an IAM access key's id. `expires_at` is known of short-term API keys.
    """

    id: UUID
    access_key_id: UUID
    auth: BedrockAuth
    region: str
    route: BedrockRoute
    profile: BedrockProfile | None
    fingerprint: str
    key_id_hint: str | None
    role_arn: str | None
    expires_at: datetime | None
    sealed_by: Literal["kms", "local"]
    created_at: datetime


class BedrockKeyTest(Answer):
    """What Bedrock said to one small request with the key. `message` is why it failed, None when it worked."""

    access_key_id: UUID
    ok: bool
    model: str
    bedrock_model: str | None
    route: str | None
    status: int | None
    message: str | None
    cost_nano_usd: int
    cost_usd: str
    duration_ms: int
    request_id: str
