"""${message}

The old code runs while this migrates, and after it: add, fill, switch, remove, in separate releases.
"""

import sqlalchemy as sa
from alembic import op

import daemon.store.types
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
