"""The state of a daemon as a manifest: read over the admin API, and written down without secrets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxyctl.client import AdminClient
from proxyctl.errors import NotFoundError
from proxyctl.manifest import VERSION, AccessKey, BedrockKey, Kind, Manifest, ModelMapping, User
from proxyctl.manifest_form import LIMITS, dollars, instant

_USER = ("description", "team", "is_active", "routing_strategy")
_BEDROCK = ("auth", "region", "route", "profile", "role_arn", "key_id_hint")
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Handle:
    """How the API knows an object, and in which version it was read."""

    id: str
    version: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What a daemon has, with the handle of each object by kind and name."""

    manifest: Manifest
    handles: dict[tuple[Kind, str], Handle] = field(default_factory=dict)
    bedrock_keys: dict[str, BedrockKey] = field(default_factory=dict)


def read_state(client: AdminClient, wanted: Manifest | None = None) -> State:
    """What a daemon has: of what a manifest speaks about, or everything. Nothing else is asked for."""
    state = State(Manifest())
    users = mappings = None
    if wanted is None or wanted.users is not None:
        users = tuple(_users(client, state, None if wanted is None else wanted.users or ()))
    if wanted is None or wanted.model_mappings is not None:
        items = client.items("/admin/model-mappings", source="database", limit=_PAGE)
        mappings = tuple(_mapping(state, item) for item in items)
    return State(Manifest(users, mappings), state.handles, state.bedrock_keys)


def _users(client: AdminClient, state: State, wanted: Iterable[User] | None) -> list[User]:
    named = None if wanted is None else {user.name: user for user in wanted}
    found = list(client.items("/admin/users", limit=_PAGE))
    budgets: dict[str, Mapping[str, Any]] = {}
    if named is None or any("budget_usd" in user.fields for user in named.values()):
        budgets = {budget["user_id"]: budget for budget in client.items("/admin/budgets", limit=_PAGE)}
    keys: dict[str, list[dict[str, Any]]] = {}
    if named is None or any(user.access_keys is not None for user in named.values()):
        for key in client.items("/admin/access-keys", limit=_PAGE):
            keys.setdefault(key["user_id"], []).append(key)
    users = []
    for user in found:
        state.handles["user", user["name"]] = Handle(user["id"], user["version"])
        asked = _with_bedrock_key(user["name"], named)
        held = tuple(_access_key(client, state, key, asked) for key in keys.get(user["id"], []))
        fields = {name: user[name] for name in _USER} | budget_fields(budgets.get(user["id"], {}))
        users.append(User(user["name"], fields, held))
    return users


def budget_fields(budget: Mapping[str, Any]) -> dict[str, Any]:
    """A budget as a manifest has it: without an amount its period means nothing."""
    if budget.get("budget_usd") is None:
        return {"budget_usd": None}
    return {"budget_usd": dollars(budget["budget_usd"]), "budget_period": budget["period"]}


def _with_bedrock_key(user: str, named: Mapping[str, User] | None) -> set[str] | None:
    """The names of the keys whose Bedrock key matters; None means all."""
    if named is None:
        return None
    wanted = named.get(user)
    return {key.name for key in (wanted.access_keys if wanted else None) or () if key.owns_bedrock_key}


def _access_key(client: AdminClient, state: State, key: dict[str, Any], asked: set[str] | None) -> AccessKey:
    name = f"{key['user_name']}/{key['name']}"
    state.handles["access key", name] = Handle(key["id"], key["version"])
    fields: dict[str, Any] = {f"limit_{limit}": key[f"limit_{limit}"] for limit in LIMITS}
    fields["expires_at"] = key["expires_at"] and instant(key["expires_at"])
    bedrock = None
    if asked is None or key["name"] in asked:
        try:
            found = client.get(f"/admin/access-keys/{key['id']}/bedrock-key")
        except NotFoundError:
            pass
        else:
            bedrock = BedrockKey({field: found.get(field) for field in _BEDROCK})
            state.bedrock_keys[name] = bedrock
    return AccessKey(key["name"], fields, bedrock, owns_bedrock_key=bedrock is not None)


def _mapping(state: State, item: dict[str, Any]) -> ModelMapping:
    state.handles["model mapping", item["claude_model"]] = Handle(item["id"], item["version"])
    return ModelMapping(
        item["claude_model"], {"bedrock_model": item["bedrock_model"], "description": item["description"]}
    )


def document(manifest: Manifest) -> dict[str, Any]:
    """A manifest as plain values, to be written to a file and applied again. A secret's place is not in it."""
    found: dict[str, Any] = {"version": VERSION}
    if manifest.users is not None:
        found["users"] = [_user_document(user) for user in manifest.users]
    if manifest.model_mappings is not None:
        found["model_mappings"] = {
            mapping.claude_model: mapping.fields["bedrock_model"]
            if mapping.fields.get("description") is None
            else dict(mapping.fields)
            for mapping in manifest.model_mappings
        }
    return found


def _user_document(user: User) -> dict[str, Any]:
    fields = dict(user.fields)
    amount, period = fields.pop("budget_usd", None), fields.pop("budget_period", "monthly")
    budget = {"monthly_budget_usd": amount}
    if period != "monthly":
        budget = {"budget": {"usd": amount, "period": period}}
    return {"name": user.name, **fields, **budget, "access_keys": [_key_document(k) for k in user.access_keys or ()]}


def _key_document(key: AccessKey) -> dict[str, Any]:
    limits = {limit: key.fields.get(f"limit_{limit}") for limit in LIMITS}
    found = {"name": key.name, "expires_at": key.fields.get("expires_at"), "limits": limits}
    if not any(limits.values()):
        found["limits"] = None
    if key.bedrock_key is None:
        return found | {"bedrock_key": None}
    fields = {name: key.bedrock_key.fields[name] for name in ("region", "route", "profile")}
    auth = key.bedrock_key.fields["auth"]
    form: dict[str, Any] = {"auth": auth}
    if auth == "assume_role":
        form = {"assume_role": key.bedrock_key.fields["role_arn"]}
    elif auth == "ambient":
        form = {"ambient": True}
    return found | {"bedrock_key": form | fields}
