"""The servers that share the store: which are alive, and what each counted. By the database's own clock."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from sqlalchemy import Connection, TextClause, and_, bindparam, delete, select, text, update

from turnout.state.database import schema
from turnout.state.event_log.events import time_text

# Built once: servers meet at every tick, and to build a statement costs more than to run it.
_CLOCK = {
    "sqlite": text("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')"),
    "postgresql": text("SELECT clock_timestamp()"),
}
_SERVERS = select(schema.servers).order_by(schema.servers.c.name)
_SERVER = select(schema.servers).where(schema.servers.c.name == bindparam("called"))
_REPORTED = update(schema.servers).where(schema.servers.c.name == bindparam("called"))
_COUNTS = select(schema.rollout_counts).order_by(
    schema.rollout_counts.c.model,
    schema.rollout_counts.c.attempt,
    schema.rollout_counts.c.tick,
    schema.rollout_counts.c.server,
)
_COUNTS_OF_DRIVER = _COUNTS.join(
    schema.rollouts,
    and_(
        schema.rollouts.c.model == schema.rollout_counts.c.model,
        schema.rollouts.c.attempt == schema.rollout_counts.c.attempt,
    ),
).where(schema.rollouts.c.driver == bindparam("driver"))


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What a server says of itself.

    Attributes:
        instance: Another at every start.
        document: JSON values.
        alive_seconds: For how long another instance of this name counts as alive after its last report.
    """

    name: str
    instance: str
    document: Mapping[str, Any]
    alive_seconds: float


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """A server as it reported itself last.

    Attributes:
        instance: Another at every start.
        started, seen: When it reported first and last, UTC, by the database's clock.
        document: What it said, JSON values.
    """

    name: str
    instance: str
    started: datetime
    seen: datetime
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CountRecord:
    """What one server counted of one rollout in one tick.

    Attributes:
        tick: Number of the tick: the database's time divided by the seconds of a tick.
        text: The counts, as JSON.
    """

    model: str
    attempt: int
    tick: int
    server: str
    text: str

    @classmethod
    def of(cls, model: str, attempt: int, tick: int, server: str, document: Mapping[str, Any]) -> Self:
        """Returns the record of JSON values."""
        return cls(model, attempt, tick, server, _text(document))


@dataclass(frozen=True, slots=True)
class ServersSnapshot:
    """What servers said, as of one moment.

    Attributes:
        now: The database's time, UTC.
        servers: Those that are alive or were.
        counts: Of rollouts that run, those that nobody has taken yet.
    """

    now: datetime
    servers: Sequence[ServerRecord] = ()
    counts: Sequence[CountRecord] = field(default_factory=tuple)


def clock(connection: Connection) -> datetime:
    """Returns the database's time, UTC."""
    now = connection.execute(_CLOCK[connection.dialect.name]).scalar_one()
    if isinstance(now, datetime):
        return now.astimezone(UTC)
    return datetime.fromisoformat(str(now)).replace(tzinfo=UTC)


def report(connection: Connection, server: ServerReport, counts: Iterable[CountRecord]) -> datetime | None:
    """Writes what a server says of itself, and what it counted; a count that is there already stays as it is.

    Returns:
        The database's time; None if another server of this name is alive, and nothing was written.
    """
    now = clock(connection)
    row = connection.execute(_SERVER, {"called": server.name}).one_or_none()
    values = {"instance": server.instance, "seen": time_text(now), "document": _text(server.document)}
    if row is None:
        fresh = {"name": server.name, "started": time_text(now), **values}
        connection.execute(_inserted("servers", fresh), fresh)
    elif row.instance == server.instance:
        connection.execute(_REPORTED, {"called": server.name, **values})
    elif now - datetime.fromisoformat(row.seen) < timedelta(seconds=server.alive_seconds):
        return None
    else:
        connection.execute(_REPORTED, {"called": server.name, "started": time_text(now), **values})
    rows = [
        {"model": c.model, "attempt": c.attempt, "tick": c.tick, "server": c.server, "document": c.text} for c in counts
    ]
    if rows:
        connection.execute(_inserted("rollout_counts", rows[0]), rows)
    return now


def servers_snapshot(connection: Connection, driver: str | None) -> ServersSnapshot:
    """Reads the servers' reports, and the counts of the rollouts that `driver` drives, or of all if it is None."""
    servers = [
        ServerRecord(
            row.name, row.instance, datetime.fromisoformat(row.started), datetime.fromisoformat(row.seen),
            json.loads(row.document),
        )
        for row in connection.execute(_SERVERS)
    ]  # fmt: skip
    rows = connection.execute(_COUNTS if driver is None else _COUNTS_OF_DRIVER, {"driver": driver})
    found = [CountRecord(row.model, row.attempt, row.tick, row.server, row.document) for row in rows]
    return ServersSnapshot(clock(connection), servers, found)


def take(connection: Connection, model: str, attempt: int, taken: Mapping[str, int] | None) -> None:
    """Removes the counts of a rollout, in the transaction that records the result.

    `taken` is the last tick to remove, by server; None removes all of them.
    """
    table = schema.rollout_counts
    own = and_(table.c.model == model, table.c.attempt == attempt)
    if taken is None:
        connection.execute(delete(table).where(own))
    for server, tick in (taken or {}).items():
        connection.execute(delete(table).where(and_(own, table.c.server == server, table.c.tick <= tick)))


def leave(connection: Connection, name: str, instance: str) -> None:
    """Removes a server that has stopped."""
    table = schema.servers
    connection.execute(delete(table).where(and_(table.c.name == name, table.c.instance == instance)))


def expire(connection: Connection, gone_seconds: float) -> int:
    """Removes servers that have been silent for too long, and counts of ended rollouts; returns how many."""
    table, counts, running = schema.servers, schema.rollout_counts, schema.rollouts
    before = time_text(clock(connection) - timedelta(seconds=gone_seconds))
    removed = connection.execute(delete(table).where(table.c.seen < before)).rowcount
    alive = select(running.c.attempt).where(
        running.c.model == counts.c.model, running.c.attempt == counts.c.attempt, running.c.final == 0
    )
    return int(removed + connection.execute(delete(counts).where(~alive.exists())).rowcount)


def _inserted(table: str, columns: Mapping[str, object]) -> TextClause:
    """Returns the statement that inserts what is not there yet; both databases know it."""
    names, values = ", ".join(columns), ", ".join(f":{name}" for name in columns)
    return text(f"INSERT INTO {table} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING")  # noqa: S608 - our own names


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), allow_nan=False)
