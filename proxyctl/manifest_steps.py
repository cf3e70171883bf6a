"""Doing the steps of a plan over the admin API, each in the version that was read."""

from collections.abc import Mapping
from typing import Any

from proxyctl.client import AdminClient
from proxyctl.errors import ConflictError, UsageError
from proxyctl.manifest import AccessKey, BedrockKey, ModelMapping, SecretSource, Step, User
from proxyctl.manifest_state import Handle, State, budget_fields

_BUDGET = ("budget_usd", "budget_period")
_BEDROCK_API_KEYS = ("ABSK", "bedrock-api-key-")
_NEEDED = {"api_key": "api_key", "iam": "aws_secret_access_key"}
Secrets = Mapping[str, Mapping[str, str]]


def found_secrets(steps: tuple[Step, ...]) -> Secrets:
    """The secrets of all Bedrock keys that are to be set, by the name of the step; read before anything changes.

    Raises:
        UsageError: naming every key whose secret is not to be had.
    """
    secrets: dict[str, dict[str, str]] = {}
    missing: list[str] = []
    for step in steps:
        if not isinstance(step.wanted, BedrockKey):
            continue
        needed = _NEEDED.get(step.wanted.fields["auth"])
        if needed is not None and needed not in step.wanted.secrets:
            missing.append(f"{step.name}: the manifest does not say where the secret of its Bedrock key is")
        for name, source in step.wanted.secrets.items():
            try:
                secrets.setdefault(step.name, {})[name] = _checked(name, _secret(source), source)
            except UsageError as error:
                missing.append(f"{step.name}: {error.message}")
    if missing:
        raise UsageError("\n       ".join(["nothing was changed, secrets are missing or wrong:", *missing]))
    return secrets


def _checked(name: str, secret: str, source: SecretSource) -> str:
    """What the daemon would refuse for its form is refused before the first change."""
    if name == "api_key" and not secret.startswith(_BEDROCK_API_KEYS):
        expected = " or ".join(f"{prefix}…" for prefix in _BEDROCK_API_KEYS)
        raise UsageError(f"{source.form} {source.place}: is no Bedrock API key, expected {expected}")
    return secret


def _secret(source: SecretSource) -> str:
    from proxyctl.commands.bedrock_keys import as_ascii, variable
    from proxyctl.credentials import read_secret_file

    if source.form == "from_env":
        return variable("from_env", source.place) or ""
    try:
        return as_ascii(read_secret_file(source.place), "from_file")
    except UnicodeError:
        raise UsageError("from_file: what was read is not the text of a key") from None


def perform(client: AdminClient, step: Step, state: State, secrets: Secrets) -> str | None:
    """Do one step; the secret of the access key when it made one.

    Raises:
        ConflictError: the object is not as it was when the plan was made.
    """
    match step.wanted:
        case User():
            _perform_user(client, step, state)
        case AccessKey():
            return _perform_key(client, step, state)
        case BedrockKey():
            _set_bedrock_key(client, step, step.wanted, state, secrets.get(step.name, {}))
        case ModelMapping():
            _perform_mapping(client, step, state)
        case None:
            _delete(client, step, state)
    return None


def _perform_user(client: AdminClient, step: Step, state: State) -> None:
    fields = {change.field: change.after for change in step.changes if change.field not in _BUDGET}
    handle = state.handles.get(("user", step.name))
    if handle is None:
        given = {name: value for name, value in fields.items() if value is not None}
        made = client.post("/admin/users", {"name": step.name, **given})
        handle = state.handles["user", step.name] = Handle(made["id"], made["version"])
    elif fields:
        client.patch(f"/admin/users/{handle.id}", fields, version=handle.version)
    changed = [change for change in step.changes if change.field in _BUDGET]
    if not changed:
        return
    path = f"/admin/users/{handle.id}/budget"
    now = client.get(path)
    shown = budget_fields(now)
    if any(shown.get(change.field) != change.before for change in changed):
        raise ConflictError(f"the budget of {step.name} was changed meanwhile", hint="run it again")
    assert isinstance(step.wanted, User)
    body = {"budget_usd": step.wanted.fields["budget_usd"]}
    if "budget_period" in step.wanted.fields:
        body["period"] = step.wanted.fields["budget_period"]
    client.put(path, body, version=now["version"])


def _perform_key(client: AdminClient, step: Step, state: State) -> str | None:
    fields = {change.field: change.after for change in step.changes}
    handle = state.handles.get(("access key", step.name))
    if handle is not None:
        client.patch(f"/admin/access-keys/{handle.id}", fields, version=handle.version)
        return None
    assert isinstance(step.wanted, AccessKey)
    user = state.handles["user", step.name.removesuffix(f"/{step.wanted.name}")]
    given = {name: value for name, value in fields.items() if value is not None}
    made = client.post(f"/admin/users/{user.id}/access-keys", {"name": step.wanted.name, **given})
    state.handles["access key", step.name] = Handle(made["id"], made["version"])
    return str(made["access_key"])


def _set_bedrock_key(
    client: AdminClient, step: Step, wanted: BedrockKey, state: State, secrets: Mapping[str, str]
) -> None:
    before = state.bedrock_keys.get(step.name)
    kept: dict[str, Any] = {}
    if before is not None:  # what the manifest does not name stays as it is
        kept = {name: before.fields[name] for name in ("region", "route", "profile")}
        if before.fields["auth"] == wanted.fields["auth"] == "assume_role":
            kept["role_arn"] = before.fields["role_arn"]
    fields = {name: value for name, value in wanted.fields.items() if name != "key_id_hint"}
    body = {name: value for name, value in {**kept, **fields, **wanted.sent}.items() if value is not None}
    key = state.handles["access key", step.name]
    client.post(f"/admin/access-keys/{key.id}/bedrock-key", {**body, **secrets})


def _perform_mapping(client: AdminClient, step: Step, state: State) -> None:
    assert step.wanted is not None
    handle = state.handles.get(("model mapping", step.name))
    body = dict(step.wanted.fields)
    if handle is None:
        given = {name: value for name, value in body.items() if value is not None}
        client.post("/admin/model-mappings", {"claude_model": step.name, **given})
    else:
        client.put(f"/admin/model-mappings/{handle.id}", body, version=handle.version)


def _delete(client: AdminClient, step: Step, state: State) -> None:
    if step.kind == "Bedrock key":
        client.delete(f"/admin/access-keys/{state.handles['access key', step.name].id}/bedrock-key")
        return
    noun = {"user": "users", "access key": "access-keys", "model mapping": "model-mappings"}[step.kind]
    client.delete(f"/admin/{noun}/{state.handles[step.kind, step.name].id}")
