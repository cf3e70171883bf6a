"""Answers to POSTs that carried an Idempotency-Key. A new table: nothing waits for it, older code does not see it.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

from daemon.store.types import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("claimed_at", UtcDateTime, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("etag", sa.String(64)),
        sa.Column("answer", sa.Text),
        sa.Column("held_secret", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("actor", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_claimed_at", "idempotency_keys", ["claimed_at"])


def downgrade() -> None:
    op.drop_table("idempotency_keys")
