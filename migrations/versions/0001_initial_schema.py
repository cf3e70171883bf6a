"""Initial schema: the six tables of the product, what accounts and access need, and two views for operators."""

import sqlalchemy as sa
from alembic import op

from daemon.store.types import JsonDocument, UsdForPeople, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


V_LEDGER = """
CREATE VIEW v_ledger AS
SELECT request_id, access_key_id AS key_id, user_id, provider, model_served, input_tokens, output_tokens,
       cache_write_5m_tokens, cache_write_1h_tokens, cache_read_tokens, cost_nano_usd, estimated, ended, admitted_at
FROM token_usage
"""
V_BUDGET = """
CREATE VIEW v_budget AS
SELECT c.user_id, c.period_start, u.budget_nano_usd AS limit_nano_usd, c.settled_nano_usd, c.reserved_nano_usd
FROM budget_counters c JOIN users u ON u.id = c.user_id
"""


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("object_type", sa.String(length=32), nullable=False),
        sa.Column("object_id", sa.String(length=64), nullable=False),
        sa.Column("before", JsonDocument, nullable=True),
        sa.Column("after", JsonDocument, nullable=True),
        sa.Column("remote_address", sa.String(length=64), nullable=True),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_at", "audit_log", ["at"], unique=False)

    op.create_table(
        "model_mappings",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("claude_model", sa.String(length=256), nullable=False),
        sa.Column("bedrock_model", sa.String(length=512), nullable=False),
        sa.Column("description", sa.String(length=512), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_mappings")),
    )
    op.create_index(
        "uq_model_mappings_live_claude_model",
        "model_mappings",
        ["claude_model"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )

    op.create_table(
        "service_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("token_prefix", sa.String(length=16), nullable=False),
        sa.Column("scopes", JsonDocument, nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.Column("last_used_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_service_tokens")),
    )
    op.create_index(
        "uq_service_tokens_live_name",
        "service_tokens",
        ["name"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index("uq_service_tokens_token_hash", "service_tokens", ["token_hash"], unique=True)

    op.create_table(
        "settings_epoch",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_settings_epoch")),
    )
    op.create_table(
        "usage_aggregates",
        sa.Column("bucket", sa.String(length=8), nullable=False),
        sa.Column("bucket_start", UtcDateTime(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("access_key_id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("requests", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("errors", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("estimated_requests", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_5m_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_1h_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("thinking_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("input_cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_5m_cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_1h_cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_read_cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint(
            "bucket", "bucket_start", "user_id", "access_key_id", "provider", "model", name=op.f("pk_usage_aggregates")
        ),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("description", sa.String(length=512), nullable=True),
        sa.Column("team", sa.String(length=128), nullable=True),
        sa.Column("is_active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("routing_strategy", sa.String(length=32), server_default="plan_first", nullable=False),
        sa.Column("budget_nano_usd", sa.BigInteger(), nullable=True),
        sa.Column("budget_period", sa.String(length=16), server_default="monthly", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    op.create_index(
        "uq_users_live_name",
        "users",
        ["name"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )

    op.create_table(
        "access_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("key_prefix", sa.String(length=16), nullable=False),
        sa.Column("previous_key_hash", sa.String(length=64), nullable=True),
        sa.Column("previous_expires_at", UtcDateTime(), nullable=True),
        sa.Column("bedrock_region", sa.String(length=32), nullable=True),
        sa.Column("bedrock_model", sa.String(length=256), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.Column("last_used_at", UtcDateTime(), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_access_keys_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_keys")),
    )
    op.create_index("ix_access_keys_user_id", "access_keys", ["user_id"], unique=False)
    op.create_index("uq_access_keys_key_hash", "access_keys", ["key_hash"], unique=True)
    op.create_index(
        "uq_access_keys_live_name",
        "access_keys",
        ["user_id", "name"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index("uq_access_keys_previous_key_hash", "access_keys", ["previous_key_hash"], unique=True)

    op.create_table(
        "budget_counters",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("period_start", UtcDateTime(), nullable=False),
        sa.Column("settled_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reserved_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_budget_counters_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "period_start", name=op.f("pk_budget_counters")),
    )
    op.create_table(
        "reservations",
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("period_start", UtcDateTime(), nullable=False),
        sa.Column("reserved_nano_usd", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("lease_expires_at", UtcDateTime(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_reservations_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_reservations")),
    )
    op.create_index("ix_reservations_lease_expires_at", "reservations", ["lease_expires_at"], unique=False)
    op.create_index("ix_reservations_user_id", "reservations", ["user_id"], unique=False)

    op.create_table(
        "bedrock_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("access_key_id", sa.Uuid(), nullable=False),
        sa.Column("auth_kind", sa.String(length=32), nullable=False),
        sa.Column("region", sa.String(length=32), nullable=False),
        sa.Column("route", sa.String(length=16), server_default="auto", nullable=False),
        sa.Column("options", JsonDocument, nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["access_key_id"], ["access_keys.id"], name=op.f("fk_bedrock_keys_access_key_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bedrock_keys")),
    )
    op.create_index(
        "uq_bedrock_keys_live_access_key_id",
        "bedrock_keys",
        ["access_key_id"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )

    op.create_table(
        "token_usage",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("access_key_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("model_requested", sa.String(length=256), nullable=False),
        sa.Column("model_served", sa.String(length=256), nullable=False),
        sa.Column("is_stream", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("ended", sa.String(length=16), nullable=False),
        sa.Column("estimated", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("suspect", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_5m_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_1h_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("thinking_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("input_cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_5m_cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_write_1h_cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_read_cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("estimated_cost_usd", UsdForPeople(), nullable=False),
        sa.Column("input_cost_usd", UsdForPeople(), nullable=False),
        sa.Column("output_cost_usd", UsdForPeople(), nullable=False),
        sa.Column("cache_write_cost_usd", UsdForPeople(), nullable=False),
        sa.Column("cache_read_cost_usd", UsdForPeople(), nullable=False),
        sa.Column("pricing_sheet_id", sa.String(length=32), nullable=True),
        sa.Column("pricing_model", sa.String(length=256), nullable=True),
        sa.Column("pricing_region", sa.String(length=32), nullable=True),
        sa.Column("pricing_tier", sa.String(length=32), nullable=True),
        sa.Column("pricing_effective_date", sa.String(length=10), nullable=True),
        sa.Column("pricing_input_per_million", UsdForPeople(), nullable=True),
        sa.Column("pricing_output_per_million", UsdForPeople(), nullable=True),
        sa.Column("pricing_cache_write_5m_per_million", UsdForPeople(), nullable=True),
        sa.Column("pricing_cache_write_1h_per_million", UsdForPeople(), nullable=True),
        sa.Column("pricing_cache_read_per_million", UsdForPeople(), nullable=True),
        sa.Column("attempts", JsonDocument, nullable=False),
        sa.Column("fallback_reason", sa.String(length=64), nullable=True),
        sa.Column("error_type", sa.String(length=64), nullable=True),
        sa.Column("upstream_request_id", sa.String(length=128), nullable=True),
        sa.Column("session_id", sa.String(length=256), nullable=True),
        sa.Column("agent_id", sa.String(length=256), nullable=True),
        sa.Column("parent_agent_id", sa.String(length=256), nullable=True),
        sa.Column("request_class", sa.String(length=64), nullable=True),
        sa.Column("prompt_id", sa.String(length=256), nullable=True),
        sa.Column("first_byte_ms", sa.Integer(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("admitted_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["access_key_id"], ["access_keys.id"], name=op.f("fk_token_usage_access_key_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_token_usage_user_id"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token_usage")),
        sa.UniqueConstraint("request_id", name=op.f("uq_token_usage_request_id")),
    )
    op.create_index("ix_token_usage_access_key_id", "token_usage", ["access_key_id"], unique=False)
    op.create_index("ix_token_usage_admitted_at", "token_usage", ["admitted_at"], unique=False)
    op.create_index("ix_token_usage_session_id", "token_usage", ["session_id"], unique=False)
    op.create_index("ix_token_usage_user_id_admitted_at", "token_usage", ["user_id", "admitted_at"], unique=False)
    op.execute(V_LEDGER)
    op.execute(V_BUDGET)


def downgrade() -> None:
    op.execute("DROP VIEW v_budget")
    op.execute("DROP VIEW v_ledger")
    op.drop_table("token_usage")
    op.drop_table("bedrock_keys")
    op.drop_table("reservations")
    op.drop_table("budget_counters")
    op.drop_table("access_keys")
    op.drop_table("users")
    op.drop_table("usage_aggregates")
    op.drop_table("settings_epoch")
    op.drop_table("service_tokens")
    op.drop_table("model_mappings")
    op.drop_table("audit_log")
