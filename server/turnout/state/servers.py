"""The servers that share the store: which of them are alive, and their counts. Times are by the database's clock."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from sqlalchemy import Connection, TextClause, and_, bindparam, delete, or_, select, text, update

from turnout.state.change import Transactions
from turnout.state.database import schema
from turnout.state.event_log.events import time_text

# Built once: every server runs these at every tick, and building a statement costs more than running it.
_CLOCK = {"sqlite": text("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')"), "postgresql": text("SELECT clock_timestamp()")}
_SERVERS = select(schema.servers).order_by(schema.servers.c.name)
_SERVER = select(schema.servers).where(schema.servers.c.name == bindparam("called"))
_REPORTED = update(schema.servers).where(schema.servers.c.name == bindparam("called"))
_COUNTS = select(schema.rollout_counts).order_by(*schema.rollout_counts.primary_key.columns)
_OF_COUNTED = and_(
    schema.rollouts.c.model == schema.rollout_counts.c.model,
    schema.rollouts.c.attempt == schema.rollout_counts.c.attempt,
)
_COUNTS_OF_DRIVER = _COUNTS.join(schema.rollouts, _OF_COUNTED).where(schema.rollouts.c.driver == bindparam("driver"))


@dataclass(frozen=True, slots=True)
class ServerReport:
    """A server's report about itself.

    Attributes:
        instance: Identifier of the process, which differs at every start.
        alive_seconds: How long another instance with this name counts as alive after its last report.
    """

    name: str
    instance: str
    document: Mapping[str, Any]
    alive_seconds: float


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """The last report of a server.

    Attributes:
        started, seen: When it first and last reported, in UTC, by the database's clock.
    """

    name: str
    instance: str
    started: datetime
    seen: datetime
    document: Mapping[str, Any]

    def alive(self, now: datetime, seconds: float) -> bool:
        """Returns whether the server counts as alive `seconds` after its last report. `now` is the database's time."""
        return _alive(self.seen, now, seconds)


@dataclass(frozen=True, slots=True)
class CountRecord:
    """The counts of one server for one rollout in one tick.

    Attributes:
        tick: Number of the tick: the database's time divided by the length of a tick.
        text: The counts as JSON.
    """

    model: str
    attempt: int
    tick: int
    server: str
    text: str

    @classmethod
    def of(cls, model: str, attempt: int, tick: int, server: str, document: Mapping[str, Any]) -> Self:
        """Returns a record with the counts in `document`, which consists of JSON values."""
        return cls(model, attempt, tick, server, _text(document))


@dataclass(frozen=True, slots=True)
class ServersSnapshot:
    """A consistent snapshot of the servers' reports and counts.

    Attributes:
        now: The database's time, in UTC.
        servers: All servers in the store, including those that are no longer alive.
        counts: Counts of running rollouts that were not taken yet.
    """

    now: datetime
    servers: Sequence[ServerRecord] = ()
    counts: Sequence[CountRecord] = field(default_factory=tuple)


def clock(connection: Connection) -> datetime:
    """Returns the database's time, in UTC."""
    now = connection.execute(_CLOCK[connection.dialect.name]).scalar_one()
    if isinstance(now, datetime):
        return now.astimezone(UTC)
    return datetime.fromisoformat(str(now)).replace(tzinfo=UTC)


def servers_snapshot(connection: Connection, driver: str | None) -> ServersSnapshot:
    """Reads the servers' reports, and the counts of rollouts that `driver` drives; of all rollouts if it is None."""
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
    """Removes counts of a rollout, in the transaction that records their evaluation.

    `taken` is, by server, the last tick whose counts are removed; None for all.
    """
    table = schema.rollout_counts
    own = and_(table.c.model == model, table.c.attempt == attempt)
    if taken is None:
        connection.execute(delete(table).where(own))
    for server, tick in (taken or {}).items():
        connection.execute(delete(table).where(and_(own, table.c.server == server, table.c.tick <= tick)))


class ServerStore(Transactions):
    """The servers that share the store. What they report is not logged, and changes no revision."""

    def listen(self, heard: Callable[[], None]) -> None:
        """Calls `heard` in a thread at each change, if the database announces changes."""
        self._database.listen(heard)

    def report_server(self, report: ServerReport, counts: Sequence[CountRecord]) -> bool:
        """Writes a server's report and its counts in one transaction. Counts that exist already are not changed.

        Returns:
            False if another server with this name is alive, in which case nothing is written.
        """
        with self._database.writing() as connection:
            now = clock(connection)
            row = connection.execute(_SERVER, {"called": report.name}).one_or_none()
            values = {"instance": report.instance, "seen": time_text(now), "document": _text(report.document)}
            if row is None:
                fresh = {"name": report.name, "started": time_text(now), **values}
                connection.execute(_inserted("servers", fresh), fresh)
            elif row.instance == report.instance:
                connection.execute(_REPORTED, {"called": report.name, **values})
            elif _alive(datetime.fromisoformat(row.seen), now, report.alive_seconds):
                return False
            else:
                connection.execute(_REPORTED, {"called": report.name, "started": time_text(now), **values})
            rows = [
                {"model": c.model, "attempt": c.attempt, "tick": c.tick, "server": c.server, "document": c.text}
                for c in counts
            ]
            if rows:
                connection.execute(_inserted("rollout_counts", rows[0]), rows)
        return True

    def leave_server(self, name: str, instance: str) -> None:
        """Removes a server that is stopping."""
        table = schema.servers
        with self._database.writing() as connection:
            connection.execute(delete(table).where(table.c.name == name, table.c.instance == instance))

    def expire_servers(self, gone_seconds: float) -> int:
        """Removes servers that have been silent for so long, and counts of ended rollouts. Returns how many."""
        table, counts, running = schema.servers, schema.rollout_counts, schema.rollouts
        alive = select(running.c.attempt).where(_OF_COUNTED, running.c.final == 0)
        with self._database.writing() as connection:
            now, gone = clock(connection), timedelta(seconds=gone_seconds)
            silent = or_(table.c.seen < time_text(now - gone), table.c.seen > time_text(now + gone))
            removed = connection.execute(delete(table).where(silent)).rowcount
            return int(removed + connection.execute(delete(counts).where(~alive.exists())).rowcount)


def _alive(seen: datetime, now: datetime, seconds: float) -> bool:
    # A report from the future is from before the clock was set back: a server that is alive has reported since.
    return abs(now - seen) < timedelta(seconds=seconds)


def _inserted(table: str, columns: Mapping[str, object]) -> TextClause:
    """Returns a statement, valid in both databases, that inserts rows that do not exist yet."""
    names, values = ", ".join(columns), ", ".join(f":{name}" for name in columns)
    return text(f"INSERT INTO {table} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING")  # noqa: S608 - our own names


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), allow_nan=False)
