"""Access keys and service tokens at rest: an HMAC, never the key."""

import hashlib
import hmac
from collections.abc import Callable

from daemon.core.identity import make_access_key, make_service_token

_RANDOM_BYTES = 32


def hash_key(raw: str, secret: bytes) -> str:
    """HMAC-SHA256 of an access key or a service token, in hex: what the store knows of it."""
    return hmac.new(secret, raw.encode(), hashlib.sha256).hexdigest()


def new_access_key(token_bytes: Callable[[int], bytes]) -> str:
    """A fresh access key with 256 bits from `token_bytes`."""
    return make_access_key(token_bytes(_RANDOM_BYTES))


def new_service_token(token_bytes: Callable[[int], bytes]) -> str:
    """A fresh service token with 256 bits from `token_bytes`."""
    return make_service_token(token_bytes(_RANDOM_BYTES))
