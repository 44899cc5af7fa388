"""Names of models may have 128 characters. SQLite holds no text to a length, so nothing changes there."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_TABLES = ("standings", "tags", "events", "policies", "rollouts", "rollout_ticks", "rollout_counts")


def upgrade() -> None:
    """Widens the column `model`; PostgreSQL rewrites no row for that."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in _TABLES:
        op.alter_column(table, "model", existing_type=sa.String(63), type_=sa.String(128), existing_nullable=False)
