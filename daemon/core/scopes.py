"""Scopes: what a service token may do. A noun and `read` or `write`, or `admin` for everything.

The nouns are those of the command line.
"""

from collections.abc import Collection, Iterable

ADMIN = "admin"
NOUNS = (
    "users",
    "keys",
    "bedrock-keys",
    "budgets",
    "models",
    "pricing",
    "circuits",
    "compatibility",
    "usage",
    "audit",
    "system",
    "tokens",
)
SCOPES = frozenset({ADMIN, *(f"{noun}:{access}" for noun in NOUNS for access in ("read", "write"))})


def covers(held: Collection[str], needed: str) -> bool:
    """Whether scopes allow what needs `needed`: `write` covers `read` of its noun, `admin` everything."""
    noun, _, access = needed.partition(":")
    return ADMIN in held or needed in held or (access == "read" and f"{noun}:write" in held)


def missing(held: Collection[str], wanted: Iterable[str]) -> list[str]:
    """Those of the wanted scopes that the held ones do not cover."""
    return [scope for scope in wanted if not covers(held, scope)]


def read_only(held: Collection[str]) -> frozenset[str]:
    """The part of scopes that changes nothing."""
    return frozenset(f"{noun}:read" for noun in NOUNS if covers(held, f"{noun}:read"))
