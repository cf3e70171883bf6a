"""What a manifest may say: plain values into a `Manifest`, with everything that is wrong named at once. Pure."""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from proxyctl.manifest import (
    VERSION,
    AccessKey,
    BedrockKey,
    Manifest,
    ModelMapping,
    SecretSource,
    User,
)
from proxyctl.manifest_text import ManifestError, Problem, Source, joined

STRATEGIES = ("plan_first", "plan_only", "bedrock_first", "bedrock_only")
PERIODS = ("daily", "weekly", "monthly")
LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests")
_AUTHS = ("api_key", "iam", "assume_role", "ambient")
_ROUTES = ("auto", "messages", "invoke")
_PROFILES = ("global", "us", "eu", "jp", "au", "us-gov", "apac", "none")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MONEY = re.compile(r"[0-9]{1,6}(\.[0-9]{1,9})?", re.ASCII)
_LARGEST_LIMIT = 1_000_000_000
_MISSING: Any = object()
_NAME = "1 to 128 characters of text"


def parsed(sources: Sequence[Source]) -> Manifest:
    """One manifest of all files.

    Raises:
        ManifestError: with all problems of all files.
    """
    users: list[User] = []
    mappings: list[ModelMapping] = []
    sections: set[str] = set()
    for source in sources:
        if source.problems:
            continue
        top = _Group(source, "", source.value, ("version", "users", "model_mappings"))
        if not source.problems:
            top.take("version", f"{VERSION!r}", lambda value: value if value == VERSION else None, required=True)
        sections |= top.given & {"users", "model_mappings"}
        users += [_user(source, path, item) for path, item in top.items("users")]
        mappings += [_mapping(source, path, name, item) for path, name, item in top.entries("model_mappings")]
    problems = [problem for source in sources for problem in source.problems]
    last = sources[-1].file if sources else "manifest"
    problems += _twice(last, "user", (user.name for user in users if user.name))
    for user in users:
        problems += _twice(last, f"access key of {user.name}", (k.name for k in user.access_keys or () if k.name))
    problems += _twice(last, "model mapping", (mapping.claude_model for mapping in mappings))
    if problems:
        raise ManifestError(problems)
    return Manifest(
        users=tuple(users) if "users" in sections else None,
        model_mappings=tuple(mappings) if "model_mappings" in sections else None,
    )


class _Group:
    """A group of fields, of which those with other names than these are refused."""

    def __init__(self, source: Source, path: str, value: Any, names: Sequence[str]) -> None:
        self.source, self.path = source, path
        self.value: dict[str, Any] = value if isinstance(value, dict) else {}
        self.given = set(self.value)
        self.fields: dict[str, Any] = {}
        if not isinstance(value, dict):
            source.problem(path, f"expected a group of fields ({', '.join(names)})")
        for name in self.value:
            if name not in names:
                close = get_close_matches(str(name), names, 1)
                said = f"did you mean {close[0]}?" if close else f"expected {', '.join(names)}"
                source.problem(joined(path, name), f"unknown field; {said}")

    def take(
        self,
        name: str,
        expected: str,
        read: Callable[[Any], Any],
        *,
        required: bool = False,
        nullable: bool = False,
        into: str | None = None,
    ) -> Any:
        """The value of a field, kept in `fields` if there is one; `read` answers None for what it does not take."""
        if name not in self.value:
            if required and isinstance(self.value, dict):
                self.source.problem(joined(self.path, name), f"is missing; expected {expected}")
            return None
        given = self.value[name]
        value = None if given is None else read(given)
        if value is None and not (given is None and nullable):
            self.source.problem(joined(self.path, name), f"expected {expected}" + (" or null" if nullable else ""))
            return None
        self.fields[into or name] = value
        return value

    def items(self, name: str) -> Iterable[tuple[str, Any]]:
        """The items of a list, with their paths."""
        value = self.value.get(name, [])
        if not isinstance(value, list):
            self.source.problem(joined(self.path, name), "expected a list")
            return []
        return [(joined(joined(self.path, name), number), item) for number, item in enumerate(value)]

    def entries(self, name: str) -> Iterable[tuple[str, str, Any]]:
        """The entries of a group whose names are free, with their paths."""
        value = self.value.get(name, {})
        if not isinstance(value, dict):
            self.source.problem(joined(self.path, name), "expected a group, one line for each")
            return []
        return [(joined(joined(self.path, name), key), key, item) for key, item in value.items()]


def _user(source: Source, path: str, value: Any) -> User:
    names = ("name", "description", "team", "is_active", "routing_strategy", "monthly_budget_usd", "budget")
    group = _Group(source, path, value, (*names, "access_keys"))
    name = group.take("name", _NAME, _text(128), required=isinstance(value, dict))
    group.fields.clear()
    group.take("description", "at most 512 characters of text", _text(512, least=0), nullable=True)
    group.take("team", _NAME, _text(128), nullable=True)
    group.take("is_active", "true or false", lambda given: given if isinstance(given, bool) else None)
    group.take("routing_strategy", _one_of(STRATEGIES), _choice(STRATEGIES))
    if {"monthly_budget_usd", "budget"} <= group.given:
        source.problem(joined(path, "budget"), "excludes monthly_budget_usd")
    if "monthly_budget_usd" in group.given:
        amount = group.take("monthly_budget_usd", _DOLLARS, dollars, nullable=True, into="budget_usd")
        if amount is not None:
            group.fields["budget_period"] = "monthly"
    elif group.value.get("budget", _MISSING) is None:
        group.fields["budget_usd"] = None
    elif "budget" in group.given:
        budget = _Group(source, joined(path, "budget"), group.value["budget"], ("usd", "period"))
        budget.take("usd", _DOLLARS, dollars, required=True, into="budget_usd")
        budget.take("period", _one_of(PERIODS), _choice(PERIODS), into="budget_period")
        group.fields |= budget.fields
    keys = tuple(_access_key(source, at, item) for at, item in group.items("access_keys"))
    return User(name or "", group.fields, keys if "access_keys" in group.given else None)


def _access_key(source: Source, path: str, value: Any) -> AccessKey:
    names = ("name", "expires_at", "limits", "bedrock_region", "bedrock_key")
    group = _Group(source, path, value, names)
    name = group.take("name", _NAME, _text(128), required=isinstance(value, dict))
    group.fields.clear()
    group.take("expires_at", "an instant such as 2027-01-01T00:00:00Z", instant, nullable=True)
    if group.value.get("limits", _MISSING) is None:
        group.fields |= dict.fromkeys((f"limit_{limit}" for limit in LIMITS), None)
    elif "limits" in group.given:
        limits = _Group(source, joined(path, "limits"), group.value["limits"], LIMITS)
        for limit in LIMITS:
            limits.take(limit, "a whole number from 1", _limit, nullable=True, into=f"limit_{limit}")
        group.fields |= limits.fields
    group.take("bedrock_region", "an AWS region such as us-east-1", _text(32))
    region = group.fields.pop("bedrock_region", None)
    bedrock = None
    if group.value.get("bedrock_key") is not None:
        bedrock = _bedrock_key(source, joined(path, "bedrock_key"), group.value["bedrock_key"])
        if region is not None:
            bedrock = BedrockKey({"region": region, **bedrock.fields}, bedrock.sent, bedrock.secrets)
    elif region is not None:
        source.problem(joined(path, "bedrock_region"), "is the region of a bedrock_key, and there is none")
    return AccessKey(name or "", group.fields, bedrock, owns_bedrock_key="bedrock_key" in group.given)


def _bedrock_key(source: Source, path: str, value: Any) -> BedrockKey:
    """No message quotes what stands here: it may be the secret itself."""
    if not isinstance(value, dict):
        source.problem(path, "expected a group such as {from_env: BEDROCK_API_KEY}, or null")
        return BedrockKey({})
    common = ("auth", "region", "route", "profile")
    group = _Group(source, path, value, ("from_env", "from_file", "iam", "assume_role", "ambient", *common))
    auth = group.take("auth", _one_of(_AUTHS), _choice(_AUTHS))
    forms = sorted(group.given & {"iam", "assume_role", "ambient"})
    if forms and (len(forms) > 1 or group.given & {"from_env", "from_file"}):
        source.problem(path, "expected one of from_env, from_file, iam, assume_role, ambient")
    kind = forms[0] if forms else auth or "api_key"
    if auth is not None and auth != kind:
        source.problem(joined(path, "auth"), f"does not go with {kind}")
    group.take("region", "an AWS region such as us-east-1", _text(32))
    group.take("route", _one_of(_ROUTES), _choice(_ROUTES))
    group.take("profile", _one_of(_PROFILES), _choice(_PROFILES), nullable=True)
    secrets: dict[str, SecretSource] = {}
    sent: dict[str, str] = {}
    fields = {"auth": kind} | {name: group.fields[name] for name in common[1:] if name in group.fields}
    if kind == "iam" and "iam" in group.given:
        names = ("access_key_id", "from_env", "from_file", "session_token_from_env")
        iam = _Group(source, joined(path, "iam"), group.value["iam"], names)
        identity = iam.take("access_key_id", "the id of an IAM access key (AKIA…)", _text(32), required=True)
        if identity is not None:
            sent["aws_access_key_id"] = identity
            fields["key_id_hint"] = identity[-4:]
        _secret(iam, "aws_secret_access_key", secrets, required=True)
        _variable(iam, "session_token_from_env", "aws_session_token", secrets)
    elif kind == "assume_role" and isinstance(group.value.get("assume_role"), dict):
        role = _Group(source, joined(path, kind), group.value[kind], ("role_arn", "external_id_from_env"))
        fields["role_arn"] = role.take("role_arn", "the ARN of a role", _text(2048), required=True)
        _variable(role, "external_id_from_env", "external_id", secrets)
    elif kind == "assume_role" and "assume_role" in group.given:
        fields["role_arn"] = group.take("assume_role", "the ARN of a role", _text(2048))
    elif kind == "ambient":
        group.take("ambient", "true", lambda given: given if given is True else None)
    elif kind == "api_key":
        _secret(group, "api_key", secrets)
    return BedrockKey(fields, sent, secrets)


def _secret(group: _Group, name: str, secrets: dict[str, SecretSource], *, required: bool = False) -> None:
    both = group.given & {"from_env", "from_file"}
    if len(both) > 1:
        group.source.problem(group.path, "from_env and from_file exclude each other")
    if required and not both and isinstance(group.value, dict):
        group.source.problem(group.path, "expected from_env or from_file")
    _variable(group, "from_env", name, secrets)
    path = group.take("from_file", "the path of a file", _text(4096))
    if path is not None:
        secrets[name] = SecretSource("from_file", path)


def _variable(group: _Group, field: str, name: str, secrets: dict[str, SecretSource]) -> None:
    place = group.take(
        field,
        "the name of an environment variable",
        lambda given: given if isinstance(given, str) and _VARIABLE.fullmatch(given) else None,
    )
    if place is not None:
        secrets[name] = SecretSource("from_env", place)


def _mapping(source: Source, path: str, name: str, value: Any) -> ModelMapping:
    form: dict[str, Any] = value if isinstance(value, dict) else {"bedrock_model": value}
    group = _Group(source, path, form, ("bedrock_model", "description"))
    group.take("bedrock_model", "a Bedrock model id, an inference profile or its ARN", _text(512), required=True)
    group.take("description", "at most 512 characters of text", _text(512, least=0), nullable=True)
    return ModelMapping(name.removesuffix("[1m]"), group.fields)


_DOLLARS = 'dollars such as "200.00", from 0 to 999999.99'


def dollars(given: Any) -> str | None:
    """An amount in the one form in which amounts are compared: two places, or as many as it needs."""
    if isinstance(given, bool) or not isinstance(given, (str, int, Decimal)) or not _MONEY.fullmatch(str(given)):
        return None
    whole, _, places = str(given).partition(".")
    places = places.rstrip("0")
    return f"{int(whole)}.{places:0<2}" if len(places) <= 6 else None


def instant(given: Any) -> str | None:
    """An instant in the one form in which instants are compared."""
    try:
        moment = datetime.fromisoformat(given)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        return None


def _limit(given: Any) -> int | None:
    return given if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= _LARGEST_LIMIT else None


def _text(most: int, *, least: int = 1) -> Callable[[Any], str | None]:
    def read(given: Any) -> str | None:
        if not isinstance(given, str) or not least <= len(given.strip()) <= most or not _printable(given.strip()):
            return None
        return given.strip()

    return read


def _printable(text: str) -> bool:
    return all(character.isprintable() or character == "\u00a0" for character in text)


def _choice(values: Sequence[str]) -> Callable[[Any], str | None]:
    return lambda given: given if isinstance(given, str) and given in values else None


def _one_of(values: Sequence[str]) -> str:
    return ", ".join(values[:-1]) + f" or {values[-1]}"


def _twice(file: str, noun: str, names: Iterable[str]) -> list[Problem]:
    seen: set[str] = set()
    found = []
    for name in names:
        if name in seen:
            found.append(Problem(file, None, "", f"{noun} {name!r} is there twice"))
        seen.add(name)
    return found
