"""From what a person types to an object: a name, an id, or the beginning of an id."""

from typing import Any
from uuid import UUID

from proxyctl.client import AdminClient
from proxyctl.errors import NotFoundError, UsageError


def find_user(client: AdminClient, wanted: str) -> dict[str, Any]:
    """A user by name, id, or the beginning of an id that only one has."""
    if _is_uuid(wanted):
        return client.get(f"/admin/users/{wanted}")
    named = list(client.items("/admin/users", name=wanted))
    return named[0] if named else _by_prefix(client.items("/admin/users"), wanted, "user")


def find_key(client: AdminClient, wanted: str) -> dict[str, Any]:
    """A key by `user/name`, id, key prefix (`ak_3fK9…`), or a name or beginning of an id that only one has."""
    if _is_uuid(wanted):
        return client.get(f"/admin/access-keys/{wanted}")
    user_name, slash, name = wanted.partition("/")
    if slash:
        user = find_user(client, user_name)
        keys = [key for key in client.items(f"/admin/users/{user['id']}/access-keys") if key["name"] == name]
        return _only(keys, wanted, "access key")
    prefix = wanted.removesuffix("…")
    found = [
        key
        for key in client.items("/admin/access-keys")
        if key["name"] == wanted or key["key_prefix"].removesuffix("…") == prefix or key["id"].startswith(wanted)
    ]
    return _only(found, wanted, "access key")


def _by_prefix(items: Any, wanted: str, noun: str) -> dict[str, Any]:
    return _only([item for item in items if len(wanted) >= 4 and item["id"].startswith(wanted)], wanted, noun)


def _only(found: list[dict[str, Any]], wanted: str, noun: str) -> dict[str, Any]:
    if not found:
        raise NotFoundError(f"no {noun} {wanted!r}", hint=f"proxyctl {'users' if noun == 'user' else 'keys'} list")
    if len(found) > 1:
        names = ", ".join(
            f"{item.get('user_name', '')}/{item['name']} ({item['id']})".lstrip("/") for item in found[:5]
        )
        raise UsageError(f"{noun} {wanted!r} is ambiguous: {names}")
    return found[0]


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
