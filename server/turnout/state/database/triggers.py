"""The triggers of the state store: recorded rows cannot be changed, and only the retention can remove them.

`turnout.state.database.migrations` must produce exactly these triggers; a test compares the two. Every change here
needs a migration.
"""

_LOGGED = {"events": "id", "policies": "revision"}
"""Tables from which the retention removes rows, and the column of each with the id of the row's event."""


def triggers(dialect: str) -> list[str]:
    """Returns the statements that create the triggers of `dialect`, "sqlite" or "postgresql", after its tables."""
    return _sqlite() if dialect == "sqlite" else _postgresql()


def _sqlite() -> list[str]:
    refuse = "BEGIN SELECT RAISE(ABORT, '{} are append-only'); END".format
    made = [
        f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {refuse(table)}"
        for table in (*_LOGGED, "removed_events")
    ]
    made += [
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} "  # noqa: S608 # our own names
        f"WHEN NOT EXISTS (SELECT 1 FROM removed_events WHERE id = OLD.{event}) {refuse(table)}"
        for table, event in _LOGGED.items()
    ]
    return [
        *made,
        f"CREATE TRIGGER removed_events_no_delete BEFORE DELETE ON removed_events {refuse('removed_events')}",
    ]


def _postgresql() -> list[str]:
    made = [
        f"CREATE FUNCTION refuse_to_change_{table}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} are append-only'; END $$"
        for table in (*_LOGGED, "removed_events")
    ]
    for table, event in _LOGGED.items():
        made += [
            f"CREATE FUNCTION refuse_to_remove_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "  # noqa: S608 # our own names
            f"IF TG_OP = 'DELETE' AND EXISTS (SELECT 1 FROM removed_events WHERE id = OLD.{event}) "
            f"THEN RETURN OLD; END IF; RAISE EXCEPTION '{table} are append-only'; END $$",
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION refuse_to_remove_{table}()",
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_{table}()",
        ]
    return [
        *made,
        "CREATE TRIGGER removed_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON removed_events "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_removed_events()",
    ]
