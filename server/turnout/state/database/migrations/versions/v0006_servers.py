"""The servers that share the store, and what each counted of the rollouts that run."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Makes the two tables."""
    op.create_table(
        "servers",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("instance", sa.String(64), nullable=False),
        sa.Column("started", sa.String(27), nullable=False),
        sa.Column("seen", sa.String(27), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_servers"),
    )
    op.create_table(
        "rollout_counts",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("tick", sa.BigInteger(), nullable=False),
        sa.Column("server", sa.String(255), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model", "attempt", "tick", "server", name="pk_rollout_counts"),
    )
