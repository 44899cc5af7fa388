"""Policies: one row for each epoch of each model."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Makes the table of policies; a model has none until one is set."""
    op.create_table(
        "policies",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.String(27), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("reason", sa.String(1024), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model", "epoch", name="pk_policies"),
    )
    for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)


_APPEND_ONLY = {
    "sqlite": (
        """
        CREATE TRIGGER policies_no_update BEFORE UPDATE ON policies
        BEGIN SELECT RAISE(ABORT, 'policies are append-only'); END
        """,
        """
        CREATE TRIGGER policies_no_delete BEFORE DELETE ON policies
        BEGIN SELECT RAISE(ABORT, 'policies are append-only'); END
        """,
    ),
    "postgresql": (
        """
        CREATE FUNCTION refuse_to_change_policies() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'policies are append-only'; END $$
        """,
        """
        CREATE TRIGGER policies_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON policies
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_policies()
        """,
    ),
}
