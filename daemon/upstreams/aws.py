"""Credentials for AWS: from what an operator registered to the headers of one request.

What botocore does may wait on a network or hash megabytes, so all of it runs in threads, but for signing a small body,
which is quicker than handing it over.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from daemon.core.credentials import Ambient, ApiKey, AssumeRole, BedrockCredential, IamKeys
from daemon.upstreams.base import Failure, FailureKind

REFRESH_EARLY = timedelta(minutes=5)
_AMBIENT_SECONDS = timedelta(seconds=60)
_SIGN_INLINE = 128 * 1024  # bytes; a megabyte takes about a millisecond to hash
_STS_TIMEOUT = 5.0
_SESSION_NAME = "proxyctl"
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class _Temporary:
    """Keys, and when others have to be asked for."""

    keys: IamKeys
    renew_at: datetime


class AwsSigner:
    """Authenticates requests to AWS. Keeps temporary keys until shortly before they expire."""

    def __init__(self, *, sts_url: str | None, now: Callable[[], datetime]) -> None:
        self._sts_url = sts_url
        self._now = now
        self._temporary: dict[BedrockCredential, _Temporary] = {}
        self._locks: dict[BedrockCredential, asyncio.Lock] = {}

    async def sign(
        self,
        credential: BedrockCredential,
        *,
        region: str,
        url: str,
        headers: Headers,
        body: bytes,
        method: str = "POST",
        service: str = "bedrock",
    ) -> Headers | Failure:
        """`headers` with what authenticates them; a `Failure` when the credential cannot be had right now."""
        if isinstance(credential, ApiKey):
            return [*headers, (b"authorization", b"Bearer " + credential.token.encode())]
        keys = await self._keys(credential, region)
        if isinstance(keys, Failure):
            return keys
        arguments = (keys, method, url, headers, body, region, service)
        if len(body) <= _SIGN_INLINE:
            return sign_request(*arguments)
        return await asyncio.to_thread(sign_request, *arguments)

    def forget(self) -> None:
        """Drop temporary keys: a role may have been changed."""
        self._temporary.clear()

    async def _keys(self, credential: IamKeys | AssumeRole | Ambient, region: str) -> IamKeys | Failure:
        if isinstance(credential, IamKeys):
            return credential
        async with self._locks.setdefault(credential, asyncio.Lock()):
            known = self._temporary.get(credential)
            if known is not None and self._now() < known.renew_at:
                return known.keys
            try:
                fresh = await asyncio.to_thread(self._fetch, credential, region)
            except Exception as error:  # noqa: BLE001 - botocore raises dozens of classes, all mean: no credential
                return _unavailable(credential, error)
            self._temporary[credential] = fresh
            return fresh.keys

    def _fetch(self, credential: AssumeRole | Ambient, region: str) -> _Temporary:
        import boto3
        from botocore.config import Config

        session = boto3.Session(region_name=region)
        if isinstance(credential, Ambient):
            found = session.get_credentials()
            if found is None:
                raise LookupError("no credentials in environment, profile or role")
            frozen = found.get_frozen_credentials()
            keys = IamKeys(frozen.access_key, frozen.secret_key, frozen.token)
            return _Temporary(keys, self._now() + _AMBIENT_SECONDS)
        config = Config(connect_timeout=_STS_TIMEOUT, read_timeout=_STS_TIMEOUT, retries={"total_max_attempts": 1})
        client = session.client("sts", endpoint_url=self._sts_url, config=config)
        extra = {"ExternalId": credential.external_id} if credential.external_id else {}
        answer = client.assume_role(RoleArn=credential.role_arn, RoleSessionName=_SESSION_NAME, **extra)
        given = answer["Credentials"]
        keys = IamKeys(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        return _Temporary(keys, given["Expiration"] - REFRESH_EARLY)


def sign_request(
    keys: IamKeys, method: str, url: str, headers: Headers, body: bytes, region: str, service: str
) -> Headers:
    """Headers with an AWS Signature Version 4 over method, URL, headers and body."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(
        method=method, url=url, data=body, headers={name.decode(): value.decode("latin-1") for name, value in headers}
    )
    credentials = Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
    auth: Any = SigV4Auth(credentials, service, region)
    auth.add_auth(request)
    return [(name.lower().encode(), str(value).encode("latin-1")) for name, value in request.headers.items()]


def _unavailable(credential: BedrockCredential, error: Exception) -> Failure:
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    reason = code or type(error).__name__
    return Failure(FailureKind.CREDENTIAL, f"no AWS credentials by {credential.kind}: {reason}")
