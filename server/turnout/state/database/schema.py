"""The tables of the state store, and the triggers by which recorded rows cannot be changed, and only be removed by the
retention.

`turnout.state.database.migrations` must produce exactly these; a test compares the two. Every change here needs a
migration.
"""

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, MetaData, SmallInteger, String, Table, Text

VERSION_LENGTH = 255
"""Maximum length of a version in characters. It is the name of a directory, and file systems allow 255 bytes."""
NAME_LENGTH = 63
"""Maximum length of a tag in characters."""
MODEL_LENGTH = 128
"""Maximum length of a model's name in characters."""
SERVER_LENGTH = 255
"""Maximum length of a server's name in characters."""
ACTOR_LENGTH = 256
TOKEN_NAME_LENGTH = 63
REASON_LENGTH = 1024
ACTION_LENGTH = 32
HASH_LENGTH = 71
"""Length of `sha256:` and 64 hex digits in characters."""

# SQLite does not enforce lengths, and tables created by older releases declare 63 there.
_ModelName = String(NAME_LENGTH).with_variant(String(MODEL_LENGTH), "postgresql")

METADATA = MetaData(
    # Every constraint has a name, so that a later migration can change it on both databases.
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

revision = Table(
    "revision",
    METADATA,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
"""One row with the number of the latest change. Writers lock it first, so that changes are serialized."""

standings = Table(
    "standings",
    METADATA,
    Column("model", _ModelName, primary_key=True),
    # Without build metadata: versions that differ only in it are the same, and the registry refuses the second.
    Column("version", String(VERSION_LENGTH), primary_key=True),
    Column("standing", String(16), nullable=False),
    CheckConstraint("standing IN ('released', 'yanked')", name="standing"),
)
"""Versions that are not candidates."""

tags = Table(
    "tags",
    METADATA,
    Column("model", _ModelName, primary_key=True),
    Column("tag", String(NAME_LENGTH), primary_key=True),
    Column("version", String(VERSION_LENGTH), nullable=False),
)

events = Table(
    "events",
    METADATA,
    # The revision that the change made, so ids are 1, 2, 3 ... without gaps, which a database's own sequence does not
    # guarantee. On SQLite, only a column of type INTEGER is the row id itself.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    # Text, so that both databases return the same characters: UTC, ISO 8601, microseconds, Z.
    Column("time", String(27), nullable=False),
    Column("model", _ModelName, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("subject", String(VERSION_LENGTH), nullable=False),
    Column("actor", String(ACTOR_LENGTH), nullable=False),
    Column("reason", String(REASON_LENGTH), nullable=False),
    Column("payload", Text, nullable=False),
    # See `turnout.state.event_log.chain`.
    Column("previous", String(HASH_LENGTH), nullable=False),
    Column("hash", String(HASH_LENGTH), nullable=False),
    Index(None, "model", "id"),
    Index(None, "kind", "id"),
)
"""Every change, as a hash chain. Triggers prevent rows from being changed, or removed unless they are in
`removed_events`."""

removed_events = Table(
    "removed_events",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("previous", String(HASH_LENGTH), nullable=False),
    Column("hash", String(HASH_LENGTH), nullable=False),
)
"""The links in the chain of events that the retention removed. Append-only."""

policies = Table(
    "policies",
    METADATA,
    Column("model", _ModelName, primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    # The revision of the change that made it, which is also the id of its event.
    Column("revision", BigInteger, nullable=False),
    # As in events.
    Column("time", String(27), nullable=False),
    Column("action", String(ACTION_LENGTH), nullable=False),
    Column("actor", String(ACTOR_LENGTH), nullable=False),
    Column("reason", String(REASON_LENGTH), nullable=False),
    Column("document", Text, nullable=False),
)
"""The policies of models. The highest epoch of a model is in force. Triggers prevent rows from being changed, or
removed unless their event is in `removed_events`."""

rollouts = Table(
    "rollouts",
    METADATA,
    Column("model", _ModelName, primary_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    # Incremented by every write. A writer states which number it read.
    Column("number", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("final", SmallInteger, nullable=False),
    # As in events.
    Column("started", String(27), nullable=False),
    Column("changed", String(27), nullable=False),
    # The server that drives it, and until when no other may.
    Column("driver", String(64), nullable=False),
    Column("driven_until", String(27), nullable=False),
    Column("document", Text, nullable=False),
)
"""Every rollout, in its latest state."""

rollout_ticks = Table(
    "rollout_ticks",
    METADATA,
    Column("model", _ModelName, primary_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("time", String(27), nullable=False),
    Column("document", Text, nullable=False),
)
"""The counts of each tick of a rollout, so that a verdict can be replayed."""

servers = Table(
    "servers",
    METADATA,
    Column("name", String(SERVER_LENGTH), primary_key=True),
    # Differs at every start, to distinguish two servers with the same name.
    Column("instance", String(64), nullable=False),
    # As in events, by the database's clock.
    Column("started", String(27), nullable=False),
    Column("seen", String(27), nullable=False),
    Column("document", Text, nullable=False),
)
"""The servers that share this store, with their last reports. Not part of the log."""

rollout_counts = Table(
    "rollout_counts",
    METADATA,
    Column("model", _ModelName, primary_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    Column("tick", BigInteger, primary_key=True, autoincrement=False),
    Column("server", String(SERVER_LENGTH), primary_key=True),
    Column("document", Text, nullable=False),
)
"""Each server's counts of running rollouts, until the server that drives the rollout has used them."""

tokens = Table(
    "tokens",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("name", String(TOKEN_NAME_LENGTH), nullable=False),
    # SHA-256 in hex. For 256 random bits, it protects as well as a slow hash.
    Column("digest", String(64), nullable=False),
    # JSON lists of strings.
    Column("roles", Text, nullable=False),
    Column("models", Text, nullable=False),
    # As in events; empty for never.
    Column("created", String(27), nullable=False),
    Column("expires", String(27), nullable=False),
    Column("revoked", String(27), nullable=False),
    Column("actor", String(ACTOR_LENGTH), nullable=False),
)
"""Bearer tokens, including revoked ones."""

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
