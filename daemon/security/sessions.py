"""Sessions: signed tokens that expire, and that an epoch in the store ends early."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

import jwt

LIFETIME_SECONDS = 1800
Audience = Literal["proxyctl-admin", "proxyctl-dashboard"]
BEARER: Audience = "proxyctl-admin"
COOKIE: Audience = "proxyctl-dashboard"  # what a browser holds is no bearer token, and the other way round
_ALGORITHM = "HS256"
_ISSUER = "proxyctl"
_REQUIRED = ["sub", "iss", "aud", "exp", "nbf", "jti", "epoch"]
_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Claims:
    """What a session says. It holds while `epoch` is the store's, and while the service token it came from does."""

    username: str
    session_id: str
    epoch: int
    expires_at: datetime
    token_id: UUID | None = None


def issue(
    username: str,
    *,
    secret: bytes,
    now: datetime,
    epoch: int,
    token_bytes: Callable[[int], bytes],
    ttl: int = LIFETIME_SECONDS,
    audience: Audience = BEARER,
    token_id: UUID | None = None,
) -> str:
    """A token for `username` that is good for `ttl` seconds. `token_id`: the service token that it stands for."""
    claims = {
        "sub": username,
        "iss": _ISSUER,
        "aud": audience,
        "nbf": int(now.timestamp()),
        "exp": int((now + timedelta(seconds=ttl)).timestamp()),
        "jti": token_bytes(16).hex(),
        "epoch": epoch,
    }
    if token_id is not None:
        claims["token"] = token_id.hex
    return jwt.encode(claims, secret, algorithm=_ALGORITHM)


def verify(token: str, *, secret: bytes, now: datetime, audience: Audience = BEARER) -> Claims | None:
    """The claims of a token that we signed and that is good at `now`, or None. The caller compares the epoch."""
    if len(token) > _LONGEST:
        return None
    try:
        payload = jwt.decode(
            token,
            secret,
            algorithms=[_ALGORITHM],
            issuer=_ISSUER,
            audience=audience,
            # the library would ask the machine's clock; ours is an argument, see below
            options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
        token_id = UUID(hex=payload["token"]) if "token" in payload else None
    except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError):
        return None
    username, session_id = payload["sub"], payload["jti"]
    starts, ends, epoch = payload["nbf"], payload["exp"], payload["epoch"]
    if not (isinstance(username, str) and isinstance(session_id, str)):
        return None
    if not all(type(number) is int for number in (starts, ends, epoch)) or not starts <= now.timestamp() < ends:
        return None
    return Claims(username, session_id, epoch, datetime.fromtimestamp(ends, UTC), token_id)
