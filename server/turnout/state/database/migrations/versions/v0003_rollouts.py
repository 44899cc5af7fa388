"""Rollouts as they stand, and what each of their ticks counted."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Makes the two tables."""
    op.create_table(
        "rollouts",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("final", sa.SmallInteger(), nullable=False),
        sa.Column("started", sa.String(27), nullable=False),
        sa.Column("changed", sa.String(27), nullable=False),
        sa.Column("driver", sa.String(64), nullable=False),
        sa.Column("driven_until", sa.String(27), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model", "attempt", name="pk_rollouts"),
    )
    op.create_table(
        "rollout_ticks",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.String(27), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model", "attempt", "number", name="pk_rollout_ticks"),
    )
