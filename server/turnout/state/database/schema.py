"""The tables of the state store.

`turnout.state.database.migrations` brings a database to exactly these; a test compares the two. A change here comes
with a migration.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

VERSION_LENGTH = 255
"""Most characters of a version: it names a directory, and file systems hold names of 255 bytes."""
NAME_LENGTH = 63
"""Most characters of a tag."""
MODEL_LENGTH = 128
"""Most characters of a model's name."""
SERVER_LENGTH = 255
"""Most characters of a server's name."""
ACTOR_LENGTH = 256
TOKEN_NAME_LENGTH = 63
REASON_LENGTH = 1024
ACTION_LENGTH = 32
HASH_LENGTH = 71
"""Characters of `sha256:` and 64 digits."""

# SQLite holds no text to a length, and the tables of older releases say 63 there.
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
"""One row, whose number is that of the latest change. Writers lock it first, so that changes stand in one line."""

standings = Table(
    "standings",
    METADATA,
    Column("model", _ModelName, primary_key=True),
    # Without build metadata: versions that differ in it only are one version, and the registry refuses the second.
    Column("version", String(VERSION_LENGTH), primary_key=True),
    Column("standing", String(16), nullable=False),
    CheckConstraint("standing IN ('released', 'yanked')", name="standing"),
)
"""Versions that are candidates no more."""

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
    # The revision that the change made, so ids are 1, 2, 3 ... with no gap, which a database's own sequence does not
    # promise. On SQLite only a column of type INTEGER is the row's own key.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    # Text, so that both databases give back the same characters: UTC, ISO 8601, microseconds, Z.
    Column("time", String(27), nullable=False),
    Column("model", _ModelName, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("subject", String(VERSION_LENGTH), nullable=False),
    Column("actor", String(ACTOR_LENGTH), nullable=False),
    Column("reason", String(REASON_LENGTH), nullable=False),
    Column("payload", Text, nullable=False),
    # `turnout.state.event_log.chain` says of what.
    Column("previous", String(HASH_LENGTH), nullable=False),
    Column("hash", String(HASH_LENGTH), nullable=False),
    Index(None, "model", "id"),
    Index(None, "kind", "id"),
)
"""Every change there ever was, as a chain. Triggers refuse to change a row, or to remove one that is not in
`removed_events`."""

removed_events = Table(
    "removed_events",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("previous", String(HASH_LENGTH), nullable=False),
    Column("hash", String(HASH_LENGTH), nullable=False),
)
"""What stays of events that the retention removed: their links in the chain. Append-only."""

policies = Table(
    "policies",
    METADATA,
    Column("model", _ModelName, primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    # That of the change that made it, so also the id of its event.
    Column("revision", BigInteger, nullable=False),
    # As in events.
    Column("time", String(27), nullable=False),
    Column("action", String(ACTION_LENGTH), nullable=False),
    Column("actor", String(ACTOR_LENGTH), nullable=False),
    Column("reason", String(REASON_LENGTH), nullable=False),
    Column("document", Text, nullable=False),
)
"""The policies of models; the highest epoch of a model is in force. Triggers refuse to change a row, or to remove one
whose event is not in `removed_events`."""

rollouts = Table(
    "rollouts",
    METADATA,
    Column("model", _ModelName, primary_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    # Moves with every write; who writes says which number it read.
    Column("number", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("final", SmallInteger, nullable=False),
    # As in events.
    Column("started", String(27), nullable=False),
    Column("changed", String(27), nullable=False),
    # Which server drives it, and until when nobody else may.
    Column("driver", String(64), nullable=False),
    Column("driven_until", String(27), nullable=False),
    Column("document", Text, nullable=False),
)
"""Every rollout there ever was, as it stands."""

rollout_ticks = Table(
    "rollout_ticks",
    METADATA,
    Column("model", _ModelName, primary_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("time", String(27), nullable=False),
    Column("document", Text, nullable=False),
)
"""What each tick of a rollout counted, so that a verdict can be replayed."""

servers = Table(
    "servers",
    METADATA,
    Column("name", String(SERVER_LENGTH), primary_key=True),
    # Another at every start: two servers of one name are told apart by it.
    Column("instance", String(64), nullable=False),
    # As in events, by the database's own clock.
    Column("started", String(27), nullable=False),
    Column("seen", String(27), nullable=False),
    Column("document", Text, nullable=False),
)
"""The servers that share this store, each as it reported itself last. No part of the log."""

rollout_counts = Table(
    "rollout_counts",
    METADATA,
    Column("model", _ModelName, primary_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    Column("tick", BigInteger, primary_key=True, autoincrement=False),
    Column("server", String(SERVER_LENGTH), primary_key=True),
    Column("document", Text, nullable=False),
)
"""What each server counted of the rollouts that run, until whoever drives the rollout has taken it."""

tokens = Table(
    "tokens",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("name", String(TOKEN_NAME_LENGTH), nullable=False),
    # SHA-256 in hex: of 256 random bits it is as good as a slow hash.
    Column("digest", String(64), nullable=False),
    # JSON lists of texts.
    Column("roles", Text, nullable=False),
    Column("models", Text, nullable=False),
    # As in events; empty for never.
    Column("created", String(27), nullable=False),
    Column("expires", String(27), nullable=False),
    Column("revoked", String(27), nullable=False),
    Column("actor", String(ACTOR_LENGTH), nullable=False),
)
"""Bearer tokens, those that were revoked included."""
