"""Uploaded price sheets, budget counters by period, intents, live replicas, limits of access keys.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

from daemon.store.types import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LIMITS = ("limit_requests_per_minute", "limit_tokens_per_minute", "limit_concurrent_requests")
V_BUDGET = """
CREATE VIEW v_budget AS
SELECT c.user_id, c.period_start, u.budget_nano_usd AS limit_nano_usd, c.settled_nano_usd, c.reserved_nano_usd
FROM budget_counters c JOIN users u ON u.id = c.user_id AND u.budget_period = c.period
"""
V_BUDGET_BEFORE = """
CREATE VIEW v_budget AS
SELECT c.user_id, c.period_start, u.budget_nano_usd AS limit_nano_usd, c.settled_nano_usd, c.reserved_nano_usd
FROM budget_counters c JOIN users u ON u.id = c.user_id
"""


def upgrade() -> None:
    op.create_table(
        "price_sheets",
        sa.Column("sheet_id", sa.String(length=32), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("uploaded_by", sa.String(length=128), nullable=False),
        sa.Column("uploaded_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("sheet_id", name=op.f("pk_price_sheets")),
    )
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replicas")),
    )
    # Both were never written to before this revision.
    op.execute("DROP VIEW v_budget")
    op.drop_table("reservations")
    op.drop_table("budget_counters")
    op.create_table(
        "budget_counters",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("period", sa.String(length=16), nullable=False),
        sa.Column("period_start", UtcDateTime(), nullable=False),
        sa.Column("period_end", UtcDateTime(), nullable=False),
        sa.Column("settled_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reserved_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_budget_counters_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "period", "period_start", name=op.f("pk_budget_counters")),
    )
    op.create_table(
        "intents",
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("period", sa.String(length=16), nullable=True),
        sa.Column("period_start", UtcDateTime(), nullable=True),
        sa.Column("reserved_nano_usd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("lease_expires_at", UtcDateTime(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_intents_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_intents")),
    )
    op.create_index("ix_intents_lease_expires_at", "intents", ["lease_expires_at"], unique=False)
    op.create_index("ix_intents_owner", "intents", ["owner"], unique=False)
    op.create_index("ix_intents_user_id", "intents", ["user_id"], unique=False)
    for name in LIMITS:
        op.add_column("access_keys", sa.Column(name, sa.Integer(), nullable=True))
    op.create_index(
        "ix_usage_aggregates_user_id_bucket_start",
        "usage_aggregates",
        ["user_id", "bucket", "bucket_start"],
        unique=False,
    )
    op.execute(V_BUDGET)


def downgrade() -> None:
    op.execute("DROP VIEW v_budget")
    op.drop_index("ix_usage_aggregates_user_id_bucket_start", "usage_aggregates")
    for name in LIMITS:
        op.drop_column("access_keys", name)
    op.drop_table("intents")
    op.drop_table("budget_counters")
    op.drop_table("replicas")
    op.drop_table("price_sheets")
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
    op.execute(V_BUDGET_BEFORE)
