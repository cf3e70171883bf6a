"""Circuits, learned compatibility, and the provider a session stays with.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from daemon.store.types import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "circuits",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("scope_id", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("failures", _JSON, nullable=False),
        sa.Column("last_failure", sa.String(length=64), nullable=True),
        sa.Column("opened_at", UtcDateTime(), nullable=True),
        sa.Column("open_until", UtcDateTime(), nullable=True),
        sa.Column("reopened", sa.Integer(), server_default="0", nullable=False),
        sa.Column("probe_owner", sa.String(length=64), nullable=True),
        sa.Column("probe_until", UtcDateTime(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_circuits")),
        sa.UniqueConstraint("scope", "scope_id", "provider", name=op.f("uq_circuits_scope_scope_id_provider")),
    )
    op.create_table(
        "compatibility",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("region", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=512), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("value", sa.String(length=256), nullable=False),
        sa.Column("reason", sa.String(length=256), nullable=False),
        sa.Column("learned_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_compatibility")),
        sa.UniqueConstraint(
            "provider",
            "region",
            "model",
            "kind",
            "value",
            name=op.f("uq_compatibility_provider_region_model_kind_value"),
        ),
    )
    op.create_index("ix_compatibility_expires_at", "compatibility", ["expires_at"], unique=False)
    op.create_table(
        "session_routes",
        sa.Column("access_key_id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.String(length=256), nullable=False),
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.Column("healing", sa.String(length=32), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["access_key_id"], ["access_keys.id"], name=op.f("fk_session_routes_access_key_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("access_key_id", "session_id", name=op.f("pk_session_routes")),
    )
    op.create_index("ix_session_routes_until", "session_routes", ["until"], unique=False)


def downgrade() -> None:
    op.drop_table("session_routes")
    op.drop_table("compatibility")
    op.drop_table("circuits")
