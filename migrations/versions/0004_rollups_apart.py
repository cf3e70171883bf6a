"""Rollups of hours and of days lie apart on PostgreSQL: a month of days is then one stretch, not every tenth row.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEY = "bucket, bucket_start, user_id, access_key_id, provider, model"
INDEX = "ix_usage_aggregates_user_id_bucket_start"


def upgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return  # SQLite has no partitions
    _replace(" PARTITION BY LIST (bucket)", partitions=True)


def downgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    _replace("", partitions=False)


def _replace(partition: str, *, partitions: bool) -> None:
    """A new table with the rows of the old one."""
    op.execute("ALTER TABLE usage_aggregates RENAME TO usage_aggregates_before")
    op.execute("ALTER TABLE usage_aggregates_before RENAME CONSTRAINT pk_usage_aggregates TO pk_before")
    op.execute(f"ALTER INDEX {INDEX} RENAME TO ix_before")
    op.execute(
        "CREATE TABLE usage_aggregates (LIKE usage_aggregates_before INCLUDING DEFAULTS,"
        f" CONSTRAINT pk_usage_aggregates PRIMARY KEY ({KEY})){partition}"
    )
    if partitions:
        for bucket in ("hour", "day"):
            op.execute(
                f"CREATE TABLE usage_aggregates_{bucket} PARTITION OF usage_aggregates FOR VALUES IN ('{bucket}')"
            )
    op.execute(
        f"INSERT INTO usage_aggregates SELECT * FROM usage_aggregates_before ORDER BY {KEY}"  # noqa: S608
    )
    op.execute(f"CREATE INDEX {INDEX} ON usage_aggregates (user_id, bucket, bucket_start)")
    op.execute("DROP TABLE usage_aggregates_before")
