"""The schema on one page. Migrations create it; a test fails when the two differ.

Money is integer nano-dollars, times are UTC-aware, rows are deleted softly (`deleted_at`), names are unique among
live rows. `Numeric(12,6)` columns are derived for people; nothing adds them up.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    text,
    true,
)

from daemon.store.types import JsonDocument, UsdForPeople, UtcDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _stamps(*, deleted: bool = True) -> list[Column[Any]]:
    columns: list[Column[Any]] = [
        Column("created_at", UtcDateTime, nullable=False),
        Column("updated_at", UtcDateTime, nullable=False),
    ]
    if deleted:
        columns.append(Column("deleted_at", UtcDateTime))
    return columns


def _unique_live(name: str, *columns: str) -> Index:
    live = text("deleted_at IS NULL")
    return Index(name, *columns, unique=True, sqlite_where=live, postgresql_where=live)


def _version() -> Column[int]:
    return Column("version", Integer, nullable=False, server_default="1")


_big_id = BigInteger().with_variant(Integer, "sqlite")

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(128), nullable=False),
    Column("description", String(512)),
    Column("team", String(128)),
    Column("is_active", Boolean, nullable=False, server_default=true()),
    Column("routing_strategy", String(32), nullable=False, server_default="plan_first"),
    Column("budget_nano_usd", BigInteger),
    Column("budget_period", String(16), nullable=False, server_default="monthly"),
    _version(),
    *_stamps(),
    _unique_live("uq_users_live_name", "name"),
)

access_keys = Table(
    "access_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(128), nullable=False),
    Column("key_hash", String(64), nullable=False),
    Column("key_prefix", String(16), nullable=False),
    Column("previous_key_hash", String(64)),
    Column("previous_expires_at", UtcDateTime),
    Column("bedrock_region", String(32)),
    Column("bedrock_model", String(256)),
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    Column("limit_requests_per_minute", Integer),
    Column("limit_tokens_per_minute", Integer),
    Column("limit_concurrent_requests", Integer),
    _version(),
    *_stamps(),
    Index("uq_access_keys_key_hash", "key_hash", unique=True),
    Index("uq_access_keys_previous_key_hash", "previous_key_hash", unique=True),
    _unique_live("uq_access_keys_live_name", "user_id", "name"),
)

bedrock_keys = Table(
    "bedrock_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("access_key_id", Uuid, ForeignKey("access_keys.id", ondelete="CASCADE"), nullable=False),
    Column("auth_kind", String(32), nullable=False),
    Column("region", String(32), nullable=False),
    Column("route", String(16), nullable=False, server_default="auto"),
    Column("options", JsonDocument, nullable=False),
    Column("sealed_secret", LargeBinary, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    *_stamps(),
    _unique_live("uq_bedrock_keys_live_access_key_id", "access_key_id"),
)

_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
    "thinking_tokens",
)
_COSTS = (
    "input_cost_nano_usd",
    "output_cost_nano_usd",
    "cache_write_5m_cost_nano_usd",
    "cache_write_1h_cost_nano_usd",
    "cache_read_cost_nano_usd",
    "cost_nano_usd",
)


def _sums() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False, server_default="0") for name in (*_COUNTS, *_COSTS)]


token_usage = Table(
    "token_usage",
    metadata,
    Column("id", _big_id, primary_key=True, autoincrement=True),
    Column("request_id", String(40), nullable=False),
    Column("access_key_id", Uuid, ForeignKey("access_keys.id", ondelete="SET NULL")),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="SET NULL")),
    Column("provider", String(16), nullable=False),
    Column("model_requested", String(256), nullable=False),
    Column("model_served", String(256), nullable=False),
    Column("is_stream", Boolean, nullable=False),
    Column("status", Integer, nullable=False),
    Column("ended", String(16), nullable=False),
    Column("estimated", Boolean, nullable=False, server_default=false()),
    Column("suspect", Boolean, nullable=False, server_default=false()),
    *_sums(),
    Column("estimated_cost_usd", UsdForPeople, nullable=False),
    Column("input_cost_usd", UsdForPeople, nullable=False),
    Column("output_cost_usd", UsdForPeople, nullable=False),
    Column("cache_write_cost_usd", UsdForPeople, nullable=False),
    Column("cache_read_cost_usd", UsdForPeople, nullable=False),
    Column("pricing_sheet_id", String(32)),
    Column("pricing_model", String(256)),
    Column("pricing_region", String(32)),
    Column("pricing_tier", String(32)),
    Column("pricing_effective_date", String(10)),
    Column("pricing_input_per_million", UsdForPeople),
    Column("pricing_output_per_million", UsdForPeople),
    Column("pricing_cache_write_5m_per_million", UsdForPeople),
    Column("pricing_cache_write_1h_per_million", UsdForPeople),
    Column("pricing_cache_read_per_million", UsdForPeople),
    Column("attempts", JsonDocument, nullable=False),
    Column("fallback_reason", String(64)),
    Column("error_type", String(64)),
    Column("upstream_request_id", String(128)),
    Column("session_id", String(256)),
    Column("agent_id", String(256)),
    Column("parent_agent_id", String(256)),
    Column("request_class", String(64)),
    Column("prompt_id", String(256)),
    Column("first_byte_ms", Integer),
    Column("duration_ms", Integer, nullable=False),
    Column("admitted_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime, nullable=False),
    UniqueConstraint("request_id"),
    Index("ix_token_usage_admitted_at", "admitted_at"),
    Index("ix_token_usage_user_id_admitted_at", "user_id", "admitted_at"),
    Index("ix_token_usage_access_key_id", "access_key_id"),
    Index("ix_token_usage_session_id", "session_id"),
)

usage_aggregates = Table(
    "usage_aggregates",
    metadata,
    Column("bucket", String(8), nullable=False),  # hour | day
    Column("bucket_start", UtcDateTime, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("access_key_id", Uuid, nullable=False),
    Column("provider", String(16), nullable=False),
    Column("model", String(256), nullable=False),
    Column("requests", BigInteger, nullable=False, server_default="0"),
    Column("errors", BigInteger, nullable=False, server_default="0"),
    Column("estimated_requests", BigInteger, nullable=False, server_default="0"),
    *_sums(),
    PrimaryKeyConstraint("bucket", "bucket_start", "user_id", "access_key_id", "provider", "model"),
    Index("ix_usage_aggregates_user_id_bucket_start", "user_id", "bucket", "bucket_start"),
    postgresql_partition_by="LIST (bucket)",  # usage_aggregates_hour, usage_aggregates_day
)

model_mappings = Table(
    "model_mappings",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("claude_model", String(256), nullable=False),
    Column("bedrock_model", String(512), nullable=False),
    Column("description", String(512)),
    _version(),
    *_stamps(),
    _unique_live("uq_model_mappings_live_claude_model", "claude_model"),
)

# What the data plane learns while it runs, shared by all replicas.

circuits = Table(
    "circuits",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("scope", String(16), nullable=False),  # access_key | credential
    Column("scope_id", String(64), nullable=False),
    Column("provider", String(16), nullable=False),
    Column("failures", JsonDocument, nullable=False),  # instants of the failures in the window, RFC 3339
    Column("last_failure", String(64)),
    Column("opened_at", UtcDateTime),  # null: closed
    Column("open_until", UtcDateTime),
    Column("reopened", Integer, nullable=False, server_default="0"),  # failed probes in a row
    Column("probe_owner", String(64)),
    Column("probe_until", UtcDateTime),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("scope", "scope_id", "provider"),
)

compatibility = Table(
    "compatibility",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("provider", String(16), nullable=False),
    Column("region", String(32), nullable=False),
    Column("model", String(512), nullable=False),  # as sent to the provider
    Column("kind", String(16), nullable=False),  # beta | field | route | profile
    Column("value", String(256), nullable=False),
    Column("reason", String(256), nullable=False),
    Column("learned_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    UniqueConstraint("provider", "region", "model", "kind", "value"),
)

session_routes = Table(
    "session_routes",
    metadata,
    Column("access_key_id", Uuid, ForeignKey("access_keys.id", ondelete="CASCADE"), nullable=False),
    Column("session_id", String(256), nullable=False),
    Column("provider", String(16), nullable=False),
    Column("until", UtcDateTime, nullable=False, index=True),
    Column("healing", String(32)),  # how thinking blocks of earlier turns are repaired, on every later turn alike
    Column("updated_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("access_key_id", "session_id"),
)

# What a user has spent and reserved in one period: the row that a budget is enforced on. It is made from the ledger
# when it is first needed, and moves with the ledger from then on.
budget_counters = Table(
    "budget_counters",
    metadata,
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("period", String(16), nullable=False),
    Column("period_start", UtcDateTime, nullable=False),
    Column("period_end", UtcDateTime, nullable=False),
    Column("settled_nano_usd", BigInteger, nullable=False, server_default="0"),
    Column("reserved_nano_usd", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("user_id", "period", "period_start"),
)

# A request that has been or will be sent to a provider, until its usage record is in the ledger. `record` is the usage
# record that stands in for it when its replica dies; `reserved_nano_usd` is part of the counter's sum of the same name.
intents = Table(
    "intents",
    metadata,
    Column("request_id", String(40), primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("period", String(16)),
    Column("period_start", UtcDateTime),
    Column("reserved_nano_usd", BigInteger, nullable=False, server_default="0"),
    Column("record", LargeBinary, nullable=False),
    Column("owner", String(64), nullable=False, index=True),
    Column("lease_expires_at", UtcDateTime, nullable=False, index=True),
    Column("created_at", UtcDateTime, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("seen_at", UtcDateTime, nullable=False),
)

# Sheets that operators uploaded; at most one is active, and then it is over the configured one.
price_sheets = Table(
    "price_sheets",
    metadata,
    Column("sheet_id", String(32), primary_key=True),
    Column("document", Text, nullable=False),
    Column("is_active", Boolean, nullable=False, server_default=false()),
    Column("uploaded_by", String(128), nullable=False),
    Column("uploaded_at", UtcDateTime, nullable=False),
)

service_tokens = Table(
    "service_tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(128), nullable=False),
    Column("token_hash", String(64), nullable=False),
    Column("token_prefix", String(16), nullable=False),
    Column("scopes", JsonDocument, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    *_stamps(),
    Index("uq_service_tokens_token_hash", "token_hash", unique=True),
    _unique_live("uq_service_tokens_live_name", "name"),
)

# A POST with an Idempotency-Key, by who sent it: claimed before it is done (`status` null), with its answer afterwards.
# Secrets are never in `answer`.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("actor", String(128), nullable=False),
    Column("key", String(255), nullable=False),
    Column("fingerprint", String(64), nullable=False),  # SHA-256 of method, path, query and body
    Column("claimed_at", UtcDateTime, nullable=False, index=True),
    Column("status", Integer),
    Column("etag", String(64)),
    Column("answer", Text),
    Column("held_secret", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint("actor", "key"),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", _big_id, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("actor", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("object_type", String(32), nullable=False),
    Column("object_id", String(64), nullable=False),
    Column("before", JsonDocument),
    Column("after", JsonDocument),
    Column("remote_address", String(64)),
    Column("request_id", String(40), nullable=False),
)

# One row per name: `access` (keys and users), `sessions` (admin sign-ins), `routing` (circuits and what was learned),
# `models` (mappings),
# `pricing` (uploaded sheets). A replica that sees a number it
# does not know drops what it cached.
settings_epoch = Table(
    "settings_epoch",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("detail", Text),
    Column("updated_at", UtcDateTime, nullable=False),
)
