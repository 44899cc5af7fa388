"""The log becomes a chain: each event holds the hash of the one before it and its own."""

import hashlib

import rfc8785
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_GENESIS = "sha256:" + "0" * 64
_FIELDS = ("id", "time", "model", "kind", "subject", "actor", "reason", "payload", "previous")


def upgrade() -> None:
    """Adds the two columns and an index, and chains the events that there are."""
    connection = op.get_bind()
    sqlite = connection.dialect.name == "sqlite"
    for statement in _LIFT[connection.dialect.name]:
        op.execute(statement)
    for name in ("previous", "hash"):
        op.add_column("events", sa.Column(name, sa.String(71), nullable=True))
    columns: list[sa.ColumnClause[str]] = [sa.column(name) for name in (*_FIELDS, "hash")]
    events = sa.table("events", *columns)
    previous = _GENESIS
    for row in connection.execute(sa.select(*columns[:-2]).select_from(events).order_by(sa.column("id"))).all():
        body = {**row._mapping, "previous": previous}
        # As turnout.state.event_log.chain has it now. Written out, since a migration never changes and that module may.
        digest = "sha256:" + hashlib.sha256(rfc8785.dumps({name: body[name] for name in _FIELDS})).hexdigest()
        connection.execute(sa.update(events).where(events.c.id == row.id).values(previous=previous, hash=digest))
        previous = digest
    # SQLite changes a column by copying the table, and a copy has no triggers.
    with op.batch_alter_table("events", recreate="always" if sqlite else "never") as batch:
        for name in ("previous", "hash"):
            batch.alter_column(name, existing_type=sa.String(71), nullable=False)
    op.create_index("ix_events_kind_id", "events", ["kind", "id"])
    for statement in _APPEND_ONLY[connection.dialect.name]:
        op.execute(statement)


_LIFT = {
    "sqlite": ("DROP TRIGGER events_no_update", "DROP TRIGGER events_no_delete"),
    "postgresql": ("DROP TRIGGER events_append_only ON events",),
}

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
        CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_events()
        """,
    ),
}
