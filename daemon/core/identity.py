"""Access keys and service tokens: their form, and where a request carries an access key.

`ak_` or `pt_`, 43 characters of base62 (256 bits), 6 characters of base62 CRC32. The checksum lets a typo or a made-up
key be refused without asking the store, and lets secret scanners recognise a leaked one.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX = "ak_"
TOKEN_PREFIX = "pt_"  # noqa: S105 - the beginning of every service token, not one
_BODY_LENGTH = 43
_CHECKSUM_LENGTH = 6
_SHAPE = re.compile(rf"(?:{PREFIX}|{TOKEN_PREFIX})[0-9A-Za-z]{{{_BODY_LENGTH + _CHECKSUM_LENGTH}}}", re.ASCII)
_LONGEST = 256
_HEADERS = (b"x-proxy-key", b"x-api-key", b"authorization")


@dataclass(frozen=True, slots=True)
class KeyFound:
    """The request names one access key. It may still be malformed or unknown."""

    raw: str


@dataclass(frozen=True, slots=True)
class NoKey:
    """The request names no access key."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The request names two different access keys."""


def make_access_key(random_bytes: bytes) -> str:
    """An access key from 32 random bytes."""
    return _make(PREFIX, random_bytes)


def make_service_token(random_bytes: bytes) -> str:
    """A service token from 32 random bytes."""
    return _make(TOKEN_PREFIX, random_bytes)


def looks_like_access_key(text: str) -> bool:
    """Whether shape and checksum are those of an access key."""
    return text.startswith(PREFIX) and _is_whole(text)


def looks_like_service_token(text: str) -> bool:
    """Whether shape and checksum are those of a service token."""
    return text.startswith(TOKEN_PREFIX) and _is_whole(text)


def find_access_key(path_key: str | None, headers: Sequence[tuple[bytes, bytes]]) -> KeyFound | NoKey | Conflict:
    """The access key of a request, first hit of: path, `x-proxy-key`, `x-api-key`, `Authorization: Bearer`.

    Header values count only when they begin with `ak_`: anything else there is the client's own provider credential.
    A service token counts too, so that it is refused here and never goes to a provider.
    """
    found = [path_key] if path_key is not None else []
    for wanted in _HEADERS:
        for name, value in headers:
            if name == wanted:
                text = _credential(name, value)
                if text.startswith((PREFIX, TOKEN_PREFIX)):
                    found.append(text)
    if not found:
        return NoKey()
    if len(found) > 1 and len(set(found)) > 1:
        return Conflict()
    return KeyFound(found[0]) if len(found[0]) <= _LONGEST else NoKey()


def mask(text: str) -> str:
    """What may be shown of an access key or a service token: `ak_3fK9…`."""
    return f"{text[:7]}…" if text.startswith((PREFIX, TOKEN_PREFIX)) else "…"


def _make(prefix: str, random_bytes: bytes) -> str:
    if len(random_bytes) != 32:
        raise ValueError("expected 32 random bytes")
    body = _base62(int.from_bytes(random_bytes), _BODY_LENGTH)
    return f"{prefix}{body}{_checksum(body)}"


def _is_whole(text: str) -> bool:
    return bool(_SHAPE.fullmatch(text)) and _checksum(text[3:-_CHECKSUM_LENGTH]) == text[-_CHECKSUM_LENGTH:]


def _credential(name: bytes, value: bytes) -> str:
    if name == b"authorization":
        scheme, _, value = value.partition(b" ")
        if scheme.lower() != b"bearer":
            return ""
    return value.strip().decode("latin-1")


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(BASE62[digit])
    return "".join(reversed(digits))
