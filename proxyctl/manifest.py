"""Desired state and what it takes to get there. Pure: it reads nothing and changes nothing.

A manifest says nothing about a field that is absent, and clears one that is null. It owns what it names; what else
there is, it deletes only when asked to prune, and only in lists that it has.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

VERSION = "proxyctl/v1"

Action = Literal["create", "update", "delete", "unchanged"]
Kind = Literal["user", "access key", "Bedrock key", "model mapping"]
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where a secret is, never what it is: the name of an environment variable, or the path of a file."""

    form: Literal["from_env", "from_file"]
    place: str = field(repr=False)  # somebody may have put the secret here


@dataclass(frozen=True, slots=True)
class BedrockKey:
    """A Bedrock key. `fields` can be compared; `sent` and `secrets`, by the names the API gives them, cannot."""

    fields: Fields
    sent: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, SecretSource] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An access key of a user. `owns_bedrock_key`: it says which Bedrock key there is, or, with None, that none is."""

    name: str
    fields: Fields
    bedrock_key: BedrockKey | None = None
    owns_bedrock_key: bool = False


@dataclass(frozen=True, slots=True)
class User:
    """A user; `access_keys` None says nothing about keys."""

    name: str
    fields: Fields
    access_keys: tuple[AccessKey, ...] | None = None


@dataclass(frozen=True, slots=True)
class ModelMapping:
    """A mapping of the database's layer."""

    claude_model: str
    fields: Fields


@dataclass(frozen=True, slots=True)
class Manifest:
    """Users and mappings; None says nothing about them. What a daemon has is one too, with every field."""

    users: tuple[User, ...] | None = None
    model_mappings: tuple[ModelMapping, ...] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One field, before and after."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one object. `name` is `user`, `user/key` or the model; `wanted` is the object, None to delete."""

    action: Action
    kind: Kind
    name: str
    changes: tuple[Change, ...] = ()
    wanted: User | AccessKey | BedrockKey | ModelMapping | None = None


def diff(
    desired: Manifest, actual: Manifest, *, prune: bool = False, reset_bedrock_keys: bool = False
) -> tuple[Step, ...]:
    """The steps from one state to the other, in the order they are to be done: what goes, goes last.

    A Bedrock key is compared by everything but its secret, which nobody can read; `reset_bedrock_keys` sets those
    again of which the manifest says where the secret is.
    """
    steps: list[Step] = []
    ends: list[Step] = []
    there = {user.name: user for user in actual.users or ()}
    for user in desired.users or ():
        before = there.get(user.name)
        steps.append(_step("user", user.name, user, before))
        keys = {key.name: key for key in (before.access_keys if before else None) or ()}
        for key in user.access_keys or ():
            name, old = f"{user.name}/{key.name}", keys.get(key.name)
            steps.append(_step("access key", name, key, old))
            bedrock = _bedrock_step(name, key, old.bedrock_key if old else None, again=reset_bedrock_keys)
            if bedrock is not None:
                (ends if bedrock.action == "delete" else steps).append(bedrock)
        if prune and user.access_keys is not None:
            ends += _deletions("access key", f"{user.name}/", keys, (key.name for key in user.access_keys))
    mapped = {mapping.claude_model: mapping for mapping in actual.model_mappings or ()}
    steps += [
        _step("model mapping", mapping.claude_model, mapping, mapped.get(mapping.claude_model))
        for mapping in desired.model_mappings or ()
    ]
    if prune and desired.users is not None:
        ends += _deletions("user", "", there, (user.name for user in desired.users))
    if prune and desired.model_mappings is not None:
        ends += _deletions("model mapping", "", mapped, (mapping.claude_model for mapping in desired.model_mappings))
    return (*steps, *ends)


def pending(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps that change something."""
    return tuple(step for step in steps if step.action != "unchanged")


def counts(steps: Iterable[Step]) -> dict[str, int]:
    """How many objects are created, updated, deleted and left as they are."""
    found = {"created": 0, "updated": 0, "deleted": 0, "unchanged": 0}
    words = {"create": "created", "update": "updated", "delete": "deleted", "unchanged": "unchanged"}
    for step in steps:
        found[words[step.action]] += 1
    return found


def _step(
    kind: Kind,
    name: str,
    wanted: User | AccessKey | BedrockKey | ModelMapping,
    before: User | AccessKey | BedrockKey | ModelMapping | None,
) -> Step:
    old: Fields = before.fields if before is not None else {}
    changes = tuple(
        Change(title, old.get(title), value) for title, value in wanted.fields.items() if old.get(title) != value
    )
    if before is None:
        return Step("create", kind, name, changes, wanted)
    return Step("update" if changes else "unchanged", kind, name, changes, wanted)


def _bedrock_step(name: str, key: AccessKey, before: BedrockKey | None, *, again: bool) -> Step | None:
    if not key.owns_bedrock_key:
        return None
    if key.bedrock_key is None:
        return Step("delete", "Bedrock key", name) if before is not None else None
    step = _step("Bedrock key", name, key.bedrock_key, before)
    if step.action == "unchanged" and again and key.bedrock_key.secrets:
        return Step("update", "Bedrock key", name, (Change("secret", "unknown", "set again"),), key.bedrock_key)
    return step


def _deletions(kind: Kind, prefix: str, there: Mapping[str, Any], named: Iterable[str]) -> list[Step]:
    kept = set(named)
    return [Step("delete", kind, prefix + name) for name in sorted(there) if name not in kept]
