"""Credentials as a provider sees them: which kind was sent, and whether a SigV4 signature is right.

The check of signatures is written from the specification (https://docs.aws.amazon.com/IAM/latest/UserGuide/
reference_sigv-create-signed-request.html), independently of the code that signs.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote

_ALGORITHM = "AWS4-HMAC-SHA256"
_AUTHORIZATION = re.compile(
    _ALGORITHM
    + r" Credential=(?P<key>[^/]+)/(?P<scope>[^,]+), *SignedHeaders=(?P<signed>[^,]+), *Signature=(?P<mac>\w+)"
)


def auth_kind(headers: Mapping[str, str]) -> str:
    """ "sigv4", "bearer", "x-api-key", "both" (a key and an Authorization header), "other" or "none"."""
    authorization, key = headers.get("authorization", ""), headers.get("x-api-key", "")
    if authorization and key:
        return "both"
    if key:
        return "x-api-key"
    if not authorization:
        return "none"
    if authorization.startswith(_ALGORITHM):
        return "sigv4"
    return "bearer" if authorization.lower().startswith("bearer ") else "other"


def access_key_of(headers: Mapping[str, str]) -> str | None:
    """The id of the access key a request was signed with."""
    found = _AUTHORIZATION.match(headers.get("authorization", ""))
    return found["key"] if found else None


def signature_is_right(
    method: str, path: str, query: str, headers: Mapping[str, str], body: bytes, *, secret: str, service: str
) -> bool:
    """Whether the request, path as sent, carries the signature this secret makes."""
    found = _AUTHORIZATION.match(headers.get("authorization", ""))
    if found is None or found["scope"].split("/")[2:] != [service, "aws4_request"]:
        return False
    digest = hashlib.sha256(body).hexdigest()
    if headers.get("x-amz-content-sha256", digest) not in (digest, "UNSIGNED-PAYLOAD"):
        return False
    signed = found["signed"].split(";")
    lines = [f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in signed]
    pairs = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in parse_qsl(query, True))
    canonical = "\n".join(
        [
            method,
            quote(path, safe="/~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            "".join(lines),
            found["signed"],
            headers.get("x-amz-content-sha256", digest),
        ]
    )
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join([_ALGORITHM, headers.get("x-amz-date", ""), found["scope"], hashed])
    return hmac.compare_digest(_mac(_signing_key(secret, found["scope"]), text).hex(), found["mac"])


def _signing_key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = _mac(key, part)
    return key


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
