"""Credentials for AWS: from what an operator registered to the headers of one request.

What botocore does may wait on a network or hash megabytes, so all of it runs in threads, but for signing a small body,
which is quicker than handing it over. Credentials are fetched in threads of their own: the loop's default ones resolve
host names, and must not wait for STS.
"""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from importlib import import_module
from typing import Any

import structlog

from daemon.core.credentials import Ambient, ApiKey, AssumeRole, BedrockCredential, IamKeys
from daemon.upstreams.base import Failure, FailureKind
from daemon.upstreams.flights import Flights

log = structlog.get_logger()

REFRESH_EARLY = timedelta(minutes=5)
AMBIENT_SECONDS = timedelta(seconds=60)
STS_SECONDS = 5.0  # for everything it takes to get credentials
_RETRY = timedelta(seconds=30)  # when keys could not be renewed and the old ones still work
_SPARE = timedelta(seconds=10)  # keys that expire sooner are not used for a request any more
_SIGN_INLINE = 128 * 1024  # bytes; a megabyte takes about a millisecond to hash
_THREADS = 4
# The daemon's own credentials do not work any more: it may have been given others, which a new client will find.
_OWN_REFUSED = frozenset(
    (
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    )
)
_SESSION_NAME = "proxyctl"
Headers = list[tuple[bytes, bytes]]


class _NoneFound(Exception):
    """The daemon has no AWS credentials of its own."""


@dataclass(frozen=True, slots=True)
class _Temporary:
    """Keys, when others have to be asked for, and until when these serve in need."""

    keys: IamKeys
    renew_at: datetime
    good_until: datetime


class AwsSigner:
    """Authenticates requests to AWS. Keeps temporary keys until shortly before they expire."""

    def __init__(self, *, sts_url: str | None, now: Callable[[], datetime]) -> None:
        self._sts_url = sts_url
        self._now = now
        self._temporary: dict[BedrockCredential, _Temporary] = {}
        self._flights: Flights[BedrockCredential, IamKeys | Failure] = Flights()
        self._clients: dict[str, Any] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="aws")

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
        if len(body) <= _SIGN_INLINE and "botocore.auth" in sys.modules:
            return sign_request(*arguments)
        return await asyncio.to_thread(sign_request, *arguments)

    async def _keys(self, credential: IamKeys | AssumeRole | Ambient, region: str) -> IamKeys | Failure:
        if isinstance(credential, IamKeys):
            return credential
        known = self._temporary.get(credential)
        if known is not None and self._now() < known.renew_at:
            return known.keys
        return await self._flights.join(credential, partial(self._renewed, credential, region))

    async def _renewed(self, credential: AssumeRole | Ambient, region: str) -> IamKeys | Failure:
        """Fresh keys; while there are none, those that have not expired yet."""
        fetch = partial(self._fetch, credential, region)
        try:
            async with asyncio.timeout(STS_SECONDS):
                fresh = await asyncio.get_running_loop().run_in_executor(self._threads, fetch)
        except Exception as error:  # noqa: BLE001 - botocore raises dozens of classes, all mean: no credential
            failure = _unavailable(credential, error)
            log.warning("no AWS credentials", kind=credential.kind, reason=failure.detail)
            known, now = self._temporary.get(credential), self._now()
            if known is None or known.good_until <= now:
                return failure
            fresh = replace(known, renew_at=min(now + _RETRY, known.good_until))
        self._temporary[credential] = fresh
        return fresh.keys

    def _fetch(self, credential: AssumeRole | Ambient, region: str) -> _Temporary:
        if isinstance(credential, Ambient):
            frozen = _session(region).get_credentials().get_frozen_credentials()
            keys = IamKeys(frozen.access_key, frozen.secret_key, frozen.token)
            until = self._now() + AMBIENT_SECONDS
            return _Temporary(keys, until, until)
        extra = {"ExternalId": credential.external_id} if credential.external_id else {}
        try:
            answer = self._sts(region).assume_role(RoleArn=credential.role_arn, RoleSessionName=_SESSION_NAME, **extra)
        except Exception as error:
            if _code_of(error) in _OWN_REFUSED:
                self._clients.pop(region, None)
            raise
        given = answer["Credentials"]
        keys = IamKeys(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        return _Temporary(keys, given["Expiration"] - REFRESH_EARLY, given["Expiration"] - _SPARE)

    def _sts(self, region: str) -> Any:
        """A client is kept: while boto3 makes one, it holds up every thread for 50 ms."""
        from botocore.config import Config

        client = self._clients.get(region)
        if client is None:
            config = Config(connect_timeout=STS_SECONDS, read_timeout=STS_SECONDS, retries={"total_max_attempts": 1})
            client = _session(region).client("sts", endpoint_url=self._sts_url, config=config)
            self._clients[region] = client
        return client


def _session(region: str) -> Any:
    """A session of boto3 that has credentials."""
    import boto3

    session = boto3.Session(region_name=region)
    if session.get_credentials() is None:
        raise _NoneFound
    return session


async def load_botocore() -> None:
    """Import what a Bedrock request needs, in a thread: on the loop it would hold up every stream for 200 ms."""
    names = ("botocore.auth", "botocore.eventstream")
    if any(name not in sys.modules for name in names):
        for name in names:
            await asyncio.to_thread(import_module, name)


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
    if isinstance(error, _NoneFound):
        reason = "the daemon has none of its own, in environment, profile, container or instance role"
    elif isinstance(error, TimeoutError):
        reason = f"no answer in {STS_SECONDS:g} s"
    else:
        reason = _code_of(error) or type(error).__name__
    return Failure(FailureKind.CREDENTIAL, f"no AWS credentials by {credential.kind}: {reason}")


def _code_of(error: Exception) -> str | None:
    """AWS's name of an error, None for one that is not AWS's."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return str(code) if code else None
