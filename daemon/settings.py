"""Settings of the daemon: environment variables in, one validated value or a list of problems out. Pure."""

import base64
import binascii
import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.core.mapping import REGIONS, check_target, is_region

# Variables that belong to the command line tool; the daemon ignores them.
CLI_VARIABLES = frozenset(
    {
        "PROXY_SERVER",
        "PROXY_PROFILE",
        "PROXY_OUTPUT",
        "PROXY_ADMIN_TOKEN",
        "PROXY_NO_INPUT",
        "PROXY_TIMEOUT",
        "PROXY_CA_BUNDLE",
        "PROXY_DEBUG",
        "PROXY_ALLOW_HTTP",
        "PROXY_CONFIG_DIR",
    }
)
_UNPREFIXED = ("claude_code_max_output_tokens", "max_thinking_tokens")
MINIMUM_SECRET_BYTES = 32
_PLACEHOLDER = re.compile(r"change.?me|placeholder|example|your[-_ ]|secret.?here|^<.*>$", re.IGNORECASE)
_SHA256_HEX = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)
_BCRYPT = re.compile(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}")
_ARGON2ID = re.compile(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$[^$]+\$[^$]+")


@dataclass(frozen=True, slots=True)
class SettingsProblem:
    """One thing wrong with one variable. Never holds the value."""

    variable: str
    message: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.message}"


def _seconds(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        raise ValueError("expected a number of seconds, such as 60")
    return value


def _json_object(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        document = json.loads(value)
    except ValueError:
        raise ValueError("expected a JSON object") from None
    if not isinstance(document, dict):
        raise ValueError("expected a JSON object")  # noqa: TRY004 - pydantic turns this one into a problem
    return document


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """What the daemon was told. Every field is the variable `PROXY_<NAME>` unless it says otherwise."""

    model_config = SettingsConfigDict(env_prefix="PROXY_", extra="forbid", frozen=True, case_sensitive=False)

    # Store
    database_url: SecretStr | None = Field(
        None, description="postgresql+asyncpg://… ; unset: SQLite in the data directory"
    )
    data_dir: Path | None = Field(None, description="where SQLite, the journal and generated secrets live")

    # Secrets
    key_hasher_secret: SecretStr | None = Field(None, description="HMAC secret for access keys, 32 bytes or more")
    jwt_secret: SecretStr | None = Field(None, description="signing secret for admin sessions, 32 bytes or more")
    admin_username: str = Field("admin", min_length=1, max_length=128, description="name of the admin")
    admin_password_hash: SecretStr | None = Field(None, description="argon2id, bcrypt or SHA-256 hex")
    local_encryption_key: SecretStr | None = Field(None, description="32 bytes in base64 or hex; seals Bedrock keys")

    # Plan (Anthropic)
    plan_api_key: SecretStr | None = Field(None, description="Anthropic API key for clients that bring no login")
    plan_api_url: str = Field("https://api.anthropic.com", description="base URL of the Anthropic API")

    # Bedrock
    bedrock_region: str = Field("ap-northeast-2", description="AWS region of Bedrock keys that name none")
    bedrock_url: str = Field("", description="base URL of Bedrock's runtime, {region} is filled in; empty: AWS")
    bedrock_model_mapping: Annotated[dict[str, str], BeforeValidator(_json_object)] = Field(
        {}, description="JSON: Claude model id to Bedrock model id; over the packaged map, under the database's"
    )
    bedrock_default_model: str | None = Field(None, description="deprecated and ignored: map models instead")
    bedrock_key_cache_ttl: Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=3600)] = Field(
        300.0, description="seconds a decrypted Bedrock key is remembered"
    )
    kms_key_id: str | None = Field(None, description="KMS key that seals Bedrock keys: id, alias or ARN")
    kms_url: str = Field("", description="base URL of KMS; empty: AWS")
    sts_url: str = Field("", description="base URL of STS; empty: AWS")

    # Routing
    circuit_failure_threshold: int = Field(3, ge=1, le=1000, description="failures in a minute that open a circuit")
    circuit_reset_timeout: Seconds = Field(1800.0, description="seconds a circuit stays open at most")
    sticky_seconds: Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=86_400)] = Field(
        1800.0, description="seconds a session stays with the provider it moved to"
    )
    compatibility_ttl: Seconds = Field(86_400.0, description="seconds that a learned incompatibility is remembered")

    # What clients may ask for (the names are the client's own)
    claude_code_max_output_tokens: int | None = Field(
        None, ge=1, le=1_000_000, description="most output tokens a request may ask for; unset: as the client says"
    )
    max_thinking_tokens: int | None = Field(
        None, ge=1024, le=1_000_000, description="largest thinking budget a request may ask for; unset: as it says"
    )

    # Server
    trusted_proxies: str = Field("", description="addresses whose X-Forwarded-For is believed, comma separated")
    allowed_hosts: str = Field("", description="host names that may be asked for, comma separated; empty: any")
    drain_delay: Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=600)] = Field(
        0.0, description="seconds to keep accepting after SIGTERM while /readyz says 503"
    )
    drain_max: Seconds = Field(110.0, description="seconds that running streams may take after SIGTERM")

    # Deadlines of the data plane
    connect_timeout: Seconds = Field(5.0, description="seconds to reach a provider")
    first_byte_timeout: Seconds = Field(60.0, description="seconds until a streaming answer begins")
    whole_answer_timeout: Seconds = Field(600.0, description="seconds until a non-streaming answer begins")
    idle_timeout: Seconds = Field(120.0, description="seconds between two bytes of an answer")

    # Caches, usage, money
    access_key_cache_ttl: Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=3600)] = Field(
        60.0, description="seconds an access key is remembered"
    )
    auth_max_stale: Seconds = Field(900.0, description="seconds a known key is served while the database is away")
    budget_timezone: str = Field("UTC", description="zone in which days, weeks and months begin")
    budget_scope: Literal["bedrock", "all"] = Field("bedrock", description="whose cost counts against budgets")
    budget_mode: Literal["strict", "balanced", "off"] = Field("balanced", description="how budgets are enforced")
    budget_default_usd: str | None = Field(None, description="budget of new users in dollars; unset: none")
    budget_on_store_error: Literal["allowance", "open", "closed"] = Field(
        "allowance", description="users with a budget while the database is away"
    )
    budget_cache_ttl: Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=3600)] = Field(
        60.0, description="seconds a budget's state is remembered for display; enforcement never is"
    )
    ledger_intent: Literal["journal", "database"] = Field(
        "journal", description="where a request is noted before it goes out; database: for hosts whose disks die"
    )
    usage_retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="days ledger rows are kept, those of the month always, rollups for ever; unset: all",
    )
    pricing_file: Path | None = Field(None, description="price sheet over the packaged one")
    model_pricing: str | None = Field(
        None, description="JSON: prices over the packaged sheet and PROXY_PRICING_FILE, per provider, region and model"
    )
    price_unknown: Literal["fallback", "refuse"] = Field(
        "fallback", description="a model without a price: charge the dearest known one, or refuse it"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level logged")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Values come from the mapping given to `load_settings` alone: no hidden reads of the environment."""
        return (init_settings,)

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(("postgresql+asyncpg://", "sqlite+aiosqlite:///")):
            raise ValueError("expected postgresql+asyncpg://user:password@host/name, or nothing for SQLite")
        return value

    @field_validator("plan_api_url", "bedrock_url", "kms_url", "sts_url")
    @classmethod
    def _http_url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", value):
            raise ValueError("expected http(s)://host[:port][/path] without credentials or query")
        return value.rstrip("/")

    @field_validator("key_hasher_secret", "jwt_secret")
    @classmethod
    def _long_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_secret(value.get_secret_value())
        return value

    @field_validator("local_encryption_key")
    @classmethod
    def _encryption_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(decode_key(value.get_secret_value()) or b"") != 32:
            raise ValueError("expected 32 bytes in base64 or hex; make one with: proxyctl init")
        return value

    @field_validator("admin_password_hash")
    @classmethod
    def _password_hash(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value()
        argon = _ARGON2ID.fullmatch(text)
        if argon and (int(argon[1]) < 19_456 or int(argon[2]) < 2):
            raise ValueError("argon2id parameters are too weak (expected m>=19456, t>=2)")
        if not (argon or _BCRYPT.fullmatch(text) or _SHA256_HEX.fullmatch(text)):
            raise ValueError(
                "expected an argon2id, bcrypt or SHA-256 hex hash; make one: proxyctl daemon hash-password"
            )
        return value

    @field_validator("budget_default_usd")
    @classmethod
    def _dollars(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value):
            raise ValueError("expected dollars such as 50 or 12.50")
        return value

    @field_validator("bedrock_region")
    @classmethod
    def _known_region(cls, value: str) -> str:
        if not is_region(value):
            raise ValueError(f"expected an AWS region with Bedrock, such as {', '.join(REGIONS[:3])}")
        return value

    @field_validator("bedrock_model_mapping")
    @classmethod
    def _bedrock_ids(cls, value: dict[str, str]) -> dict[str, str]:
        for model, target in value.items():
            problem = check_target(target)
            if problem:
                raise ValueError(f"{model[:64]}: {problem}")
        return value

    @field_validator("budget_timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value != "UTC" and value not in available_timezones():
            raise ValueError("expected an IANA time zone such as Europe/Berlin")
        return value

    @model_validator(mode="after")
    def _different_secrets(self) -> "Settings":
        given = [
            s.get_secret_value() for s in (self.key_hasher_secret, self.jwt_secret, self.local_encryption_key) if s
        ]
        if len(given) != len(set(given)):
            raise ValueError("PROXY_KEY_HASHER_SECRET, PROXY_JWT_SECRET and PROXY_LOCAL_ENCRYPTION_KEY must differ")
        return self

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.budget_timezone)


def decode_key(text: str) -> bytes | None:
    """Bytes of a key in hex or base64, None when it is neither."""
    text = text.strip()
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text)
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return None


def _check_secret(text: str) -> None:
    if _PLACEHOLDER.search(text):
        raise ValueError("is a placeholder; make a real secret with: proxyctl init")
    if len(text.encode()) < MINIMUM_SECRET_BYTES:
        raise ValueError(f"expected at least {MINIMUM_SECRET_BYTES} bytes")
    if len(set(text)) < 8:
        raise ValueError("is not random (fewer than 8 different characters)")


def variable_of(field: str) -> str:
    """The environment variable of a setting: two of them carry Claude Code's own names."""
    return field.upper() if field in _UNPREFIXED else f"PROXY_{field.upper()}"


def known_variables() -> frozenset[str]:
    """Names of all variables the daemon reads."""
    return frozenset(variable_of(name) for name in Settings.model_fields)


def load_settings(environment: Mapping[str, str]) -> Settings | list[SettingsProblem]:
    """Settings from environment variables; all problems at once when there are any. No value is ever quoted."""
    known = known_variables()
    given = {n: value for n, value in environment.items() if n.upper().startswith("PROXY_") or n in known}
    problems = [
        SettingsProblem(name, _unknown(name, known))
        for name in sorted(given)
        if name not in known and name not in CLI_VARIABLES
    ]
    values: dict[str, Any] = {n.removeprefix("PROXY_").lower(): v for n, v in given.items() if n in known and v != ""}
    try:
        settings = Settings(**values)
    except ValidationError as error:
        return problems + [_problem(dict(detail)) for detail in error.errors(include_input=False, include_url=False)]
    return problems or settings


def missing_for_postgres(settings: Settings) -> list[SettingsProblem]:
    """What a team's deployment must name itself: nothing is generated there, or replicas would disagree."""
    required = ("key_hasher_secret", "jwt_secret", "admin_password_hash")
    return [
        SettingsProblem(variable_of(name), "is required with PostgreSQL; make all secrets with: proxyctl init")
        for name in required
        if getattr(settings, name) is None
    ]


def _unknown(name: str, known: frozenset[str]) -> str:
    near = difflib.get_close_matches(name.upper(), known | CLI_VARIABLES, n=1)
    return f"is not a setting{f', did you mean {near[0]}?' if near else ''}"


def _problem(detail: dict[str, Any]) -> SettingsProblem:
    location = detail["loc"]
    variable = variable_of(str(location[0])) if location else "settings"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return SettingsProblem(variable, message[:1].lower() + message[1:])
