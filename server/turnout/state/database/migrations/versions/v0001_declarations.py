"""Releases, tags, and the log of their changes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the first tables."""
    counter = op.create_table(
        "revision",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revision"),
        sa.CheckConstraint("id = 1", name=op.f("ck_revision_one_row")),
    )
    op.bulk_insert(counter, [{"id": 1, "number": 0}])
    op.create_table(
        "standings",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("standing", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name="pk_standings"),
        sa.CheckConstraint("standing IN ('released', 'yanked')", name=op.f("ck_standings_standing")),
    )
    op.create_table(
        "tags",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("tag", sa.String(63), nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("model", "tag", name="pk_tags"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("time", sa.String(27), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("reason", sa.String(1024), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_model_id", "events", ["model", "id"])
    for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)


_APPEND_ONLY = {
    "sqlite": (
        """
        CREATE TRIGGER events_no_update BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'events are append-only'); END
        """,
        """
        CREATE TRIGGER events_no_delete BEFORE DELETE ON events
        BEGIN SELECT RAISE(ABORT, 'events are append-only'); END
        """,
    ),
    "postgresql": (
        """
        CREATE FUNCTION refuse_to_change_events() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'events are append-only'; END $$
        """,
        """
        CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_events()
        """,
    ),
}
