"""Events and policies may be removed by the retention, and by nothing else: what links the chain stays of them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Makes the table of what was removed, and has the triggers let go of what stands in it."""
    op.create_table(
        "removed_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("previous", sa.String(71), nullable=False),
        sa.Column("hash", sa.String(71), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_removed_events"),
    )
    for statement in _TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)


_TRIGGERS = {
    "sqlite": (
        "DROP TRIGGER events_no_delete",
        """
        CREATE TRIGGER events_no_delete BEFORE DELETE ON events
        WHEN NOT EXISTS (SELECT 1 FROM removed_events WHERE id = OLD.id)
        BEGIN SELECT RAISE(ABORT, 'events are append-only'); END
        """,
        "DROP TRIGGER policies_no_delete",
        """
        CREATE TRIGGER policies_no_delete BEFORE DELETE ON policies
        WHEN NOT EXISTS (SELECT 1 FROM removed_events WHERE id = OLD.revision)
        BEGIN SELECT RAISE(ABORT, 'policies are append-only'); END
        """,
        """
        CREATE TRIGGER removed_events_no_update BEFORE UPDATE ON removed_events
        BEGIN SELECT RAISE(ABORT, 'removed_events are append-only'); END
        """,
        """
        CREATE TRIGGER removed_events_no_delete BEFORE DELETE ON removed_events
        BEGIN SELECT RAISE(ABORT, 'removed_events are append-only'); END
        """,
    ),
    "postgresql": (
        "DROP TRIGGER events_append_only ON events",
        """
        CREATE FUNCTION refuse_to_remove_events() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
          IF TG_OP = 'DELETE' AND EXISTS (SELECT 1 FROM removed_events WHERE id = OLD.id) THEN RETURN OLD; END IF;
          RAISE EXCEPTION 'events are append-only';
        END $$
        """,
        """
        CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE ON events
        FOR EACH ROW EXECUTE FUNCTION refuse_to_remove_events()
        """,
        """
        CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_events()
        """,
        "DROP TRIGGER policies_append_only ON policies",
        """
        CREATE FUNCTION refuse_to_remove_policies() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
          IF TG_OP = 'DELETE' AND EXISTS (SELECT 1 FROM removed_events WHERE id = OLD.revision) THEN RETURN OLD; END IF;
          RAISE EXCEPTION 'policies are append-only';
        END $$
        """,
        """
        CREATE TRIGGER policies_append_only BEFORE UPDATE OR DELETE ON policies
        FOR EACH ROW EXECUTE FUNCTION refuse_to_remove_policies()
        """,
        """
        CREATE TRIGGER policies_no_truncate BEFORE TRUNCATE ON policies
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_policies()
        """,
        """
        CREATE FUNCTION refuse_to_change_removed_events() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'removed_events are append-only'; END $$
        """,
        """
        CREATE TRIGGER removed_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON removed_events
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_removed_events()
        """,
    ),
}
