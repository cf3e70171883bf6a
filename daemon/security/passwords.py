"""Passwords of the admin: argon2id, and the two older forms that a deployment may bring along."""

import hashlib
import hmac
import re

import bcrypt
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

# 64 MiB and 3 passes: RFC 9106's second choice, about 0.15 s here; one lane, because two run side by side.
_HASHER = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1)
_SHA256_HEX = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)
_BCRYPT_LIMIT = 72  # bytes; bcrypt reads no further, so a longer password is never right


def hash_password(password: str) -> str:
    """An argon2id hash with its parameters, for `PROXY_ADMIN_PASSWORD_HASH`."""
    return _HASHER.hash(password)


def verify_password(password: str, stored: str) -> bool:
    """Whether `password` is the one of `stored` (argon2id, bcrypt, SHA-256 hex). Slow on purpose: use a thread."""
    if _SHA256_HEX.fullmatch(stored):
        digest = hashlib.sha256(password.encode(errors="surrogatepass")).hexdigest()
        return hmac.compare_digest(digest, stored.lower())
    if stored.startswith("$argon2"):
        return _argon2(password, stored)
    return _bcrypt(password, stored)


def _argon2(password: str, stored: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (Argon2Error, InvalidHashError, UnicodeEncodeError):
        return False


def _bcrypt(password: str, stored: str) -> bool:
    raw = password.encode(errors="surrogatepass")
    fits = len(raw) <= _BCRYPT_LIMIT and b"\0" not in raw
    try:
        matches = bcrypt.checkpw(raw if fits else b"costs the same", stored.encode())
    except ValueError:
        return False
    return fits and matches
