"""Stored rollouts, and the counts of their ticks. Their documents are opaque here."""

import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NoReturn

from semver import Version
from sqlalchemy import Connection, Integer, Row, Select, and_, bindparam, delete, func, insert, select, update

from turnout.errors import ChangeRefused, Conflict
from turnout.state import servers
from turnout.state.change import Transactions, check_limit
from turnout.state.database import schema
from turnout.state.event_log.events import EventKind, time_text
from turnout.state.release_status import ReleaseStatus
from turnout.state.servers import ServersSnapshot

_MOST_RUNNING = 10_000


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """One rollout as stored.

    Attributes:
        number: Number of the write. The next write must name it.
        state: The rollout's state in one word.
        started, changed: When it was started and last changed, in UTC.
        driver: Name of the server that drives it.
        driven_until: When the driver's lease ends, in UTC, by the clock of the database. Until then no other server
            may drive the rollout.
        document: The rollout itself, as JSON values; empty if the stored text is not a JSON object.
    """

    model: str
    attempt: int
    number: int
    state: str
    final: bool
    started: datetime
    changed: datetime
    driver: str
    driven_until: datetime
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Note:
    """An entry about a rollout for the event log.

    Attributes:
        kind: What happened, in one word.
        actor: Who caused it; "" for the rollout itself.
    """

    kind: str
    text: str
    actor: str


@dataclass(frozen=True, slots=True)
class RolloutWrite:
    """A rollout to write.

    Attributes:
        attempt: Number of the attempt, counted for each model.
        expected: The number that was read; 0 for a new rollout.
        state, final: As in `RolloutRecord`.
        document: As in `RolloutRecord`; None to leave the stored text unchanged.
        lease: Seconds for which no other server may drive the rollout.
        notes: Entries for the event log, one event each.
        ticks: Counts to store, oldest first.
        needs: Versions that must not be yanked at the moment of the write.
        counted: By server, the last tick whose counts were used. Counts up to it are removed.
    """

    attempt: int
    expected: int
    state: str
    final: bool
    document: Mapping[str, Any] | None
    driver: str
    lease: float
    notes: Sequence[Note] = ()
    ticks: Sequence[Mapping[str, Any]] = ()
    needs: Sequence[Version] = ()
    counted: Mapping[str, int] = field(default_factory=dict)


def write(
    connection: Connection,
    model: str,
    wanted: RolloutWrite,
    now: datetime,
    record: Callable[[EventKind, str, Mapping[str, Any]], object],
) -> RolloutRecord:
    """Writes a rollout, its ticks and its events, unless it was written since it was read.

    Raises:
        Conflict: Another server wrote it in the meantime.
    """
    key = and_(schema.rollouts.c.model == model, schema.rollouts.c.attempt == wanted.attempt)
    row = connection.execute(select(schema.rollouts).where(key)).one_or_none()
    is_at = row.number if row is not None else 0
    if is_at != wanted.expected:
        raise Conflict(f"attempt {wanted.attempt} of {model} has been written by another server; look again")
    # By the database's clock, since the servers' clocks differ and every server checks whether a lease has expired.
    until = servers.clock(connection) + timedelta(seconds=wanted.lease)
    values = {
        "number": wanted.expected + 1, "state": wanted.state, "final": int(wanted.final), "changed": time_text(now),
        "driver": wanted.driver, "driven_until": time_text(until),
    }  # fmt: skip
    if wanted.document is not None:
        values["document"] = json.dumps(wanted.document, separators=(",", ":"), allow_nan=False)
    if row is None:
        started = {"model": model, "attempt": wanted.attempt, "started": time_text(now)}
        connection.execute(insert(schema.rollouts).values(**values, **started))
    else:
        connection.execute(update(schema.rollouts).where(key).values(**values))
    if wanted.final or wanted.counted:
        servers.take(connection, model, wanted.attempt, None if wanted.final else wanted.counted)
    if wanted.ticks:
        table = schema.rollout_ticks.c
        last = select(func.max(table.number)).where(table.model == model, table.attempt == wanted.attempt)
        first = int(connection.execute(last).scalar_one() or 0) + 1
        rows = [
            {"model": model, "attempt": wanted.attempt, "number": first + n, "time": time_text(now),
             "document": json.dumps(tick, separators=(",", ":"), allow_nan=False)}
            for n, tick in enumerate(wanted.ticks)
        ]  # fmt: skip
        connection.execute(insert(schema.rollout_ticks), rows)
    notes = list(wanted.notes)
    if not notes and (row is None or row.state != wanted.state):
        notes.append(Note("state", f"it is {wanted.state}", ""))  # so that the log alone contains every state
    for note in notes:
        payload = {
            "attempt": wanted.attempt, "kind": note.kind, "text": note.text, "actor": note.actor,
            "state": wanted.state,
        }  # fmt: skip
        record(EventKind.ROLLOUT, f"attempt {wanted.attempt}: {note.kind}", payload)
    return _record(connection.execute(select(schema.rollouts).where(key)).one())


def latest(
    connection: Connection,
    model: str | None,
    limit: int,
    *,
    running: bool,
    attempt: int | None = None,
    state: str | None = None,
) -> list[RolloutRecord]:
    """Returns rollouts, newest first."""
    wanted = {"model": model, "attempt": attempt, "state": state, "final": 0 if running else None}
    given = {column: value for column, value in wanted.items() if value is not None}
    return [_record(row) for row in connection.execute(_latest(tuple(given)), {**given, "most": limit})]


@functools.cache
def _latest(columns: tuple[str, ...]) -> Select[Any]:
    """Returns the query for at most `most` rollouts with given values of `columns`. Cached: every tick uses it.

    A model's rollouts are ordered by attempt, since the clocks of the servers that started them may differ or jump.
    """
    table = schema.rollouts
    query = select(table).where(*(table.c[column] == bindparam(column) for column in columns))
    order = [table.c.attempt.desc()] if "model" in columns else [table.c.started.desc(), table.c.attempt.desc()]
    return query.order_by(*order).limit(bindparam("most", type_=Integer))


class RolloutStore(Transactions):
    """The rollouts of models, and the counts of their ticks. A `limit` below 1 raises InvalidRequest."""

    def put_rollout(self, model: str, wanted: RolloutWrite, *, actor: str, reason: str) -> RolloutRecord:
        """Writes a rollout, the counts of its ticks and its events, in one transaction.

        Raises:
            Conflict: Another server wrote it in the meantime.
            ChangeRefused: A version that it needs is yanked.
            InvalidRequest: An argument is too long.
        """
        with self._change(model, actor, reason) as change:
            for version in wanted.needs:
                if change.standing(version) is ReleaseStatus.YANKED:
                    raise ChangeRefused(f"{version} of {model} was yanked")
            return write(change.connection, model, wanted, self._now(), change.record)

    def rollouts(
        self, model: str | None = None, *, limit: int = 100, attempt: int | None = None
    ) -> list[RolloutRecord]:
        """Returns rollouts, newest first: of all models, of one model, or one attempt of it."""
        check_limit(limit)
        with self._database.reading() as connection:
            return latest(connection, model, limit, running=False, attempt=attempt)

    def running_rollouts(self, driver: str | None = None) -> tuple[list[RolloutRecord], ServersSnapshot]:
        """Returns the rollouts that have not ended, the known servers, and the counts not yet taken, as one snapshot.

        With `driver`, only the counts of rollouts that this server drives, according to their records.
        """
        with self._database.reading() as connection:
            records = latest(connection, None, _MOST_RUNNING, running=True)
            return records, servers.servers_snapshot(connection, driver)

    def rollouts_in(self, state: str) -> list[RolloutRecord]:
        """Returns the running rollouts in a state, newest first."""
        with self._database.reading() as connection:
            return latest(connection, None, _MOST_RUNNING, running=True, state=state)

    def put_counts(self, several: Sequence[tuple[str, RolloutWrite]]) -> list[RolloutRecord | None]:
        """Writes several rollouts for which nothing changed except counts, in one transaction.

        No event is logged and the revision does not change.

        Returns:
            The new record of each; None for a rollout that was not changed, since another server wrote it meanwhile.
        """
        found: list[RolloutRecord | None] = []
        with self._database.writing() as connection:
            # As for every change: on PostgreSQL, this lock makes concurrent writers of a rollout wait for one another.
            connection.execute(select(schema.revision.c.number).with_for_update())
            for model, wanted in several:
                try:
                    found.append(write(connection, model, wanted, self._now(), _no_event))
                except Conflict:  # raised before anything is written
                    found.append(None)
        return found

    def rollout_ticks(
        self, model: str, attempt: int, after: int = 0, limit: int = 10_000
    ) -> list[tuple[int, datetime, dict[str, Any]]]:
        """Returns the ticks of a rollout after number `after`: number, time of writing, and counts."""
        check_limit(limit)
        table = schema.rollout_ticks
        own = (table.c.model == model, table.c.attempt == attempt, table.c.number > after)
        query = select(table).where(*own).order_by(table.c.number).limit(limit)
        with self._database.reading() as connection:
            rows = connection.execute(query)
            return [(row.number, datetime.fromisoformat(row.time), json.loads(row.document)) for row in rows]

    def expire_ticks(self, before: datetime, most: int = 5000) -> int:
        """Removes at most `most` ticks of rollouts that ended before a time; returns the number removed."""
        table, ended = schema.rollout_ticks, schema.rollouts
        key = (table.c.model, table.c.attempt, table.c.number)
        of_ended = and_(ended.c.model == table.c.model, ended.c.attempt == table.c.attempt, ended.c.final == 1)
        old = select(*key).join(ended, of_ended).where(ended.c.changed < time_text(before)).order_by(*key).limit(most)
        with self._database.reading() as connection:  # the search does not block changes
            found = connection.execute(old).all()
        if not found:
            return 0
        removed = 0
        with self._database.writing() as connection:
            for (model, attempt), rows in itertools.groupby(found, key=lambda row: (row.model, row.attempt)):
                numbers = [row.number for row in rows]
                # A range, because SQLite searches the whole table for rows in a list of keys with several columns.
                within = and_(key[0] == model, key[1] == attempt, key[2].between(numbers[0], numbers[-1]))
                removed += connection.execute(delete(table).where(within)).rowcount
        return removed


def _no_event(kind: EventKind, subject: str, payload: Mapping[str, Any]) -> NoReturn:
    raise ValueError(f"{subject} has to be told: it is written by itself")


def _record(row: Row[Any]) -> RolloutRecord:
    columns = row._asdict()
    times = {name: datetime.fromisoformat(columns[name]) for name in ("started", "changed", "driven_until")}
    return RolloutRecord(**columns | times | {"final": bool(row.final), "document": _object(row.document)})


def _object(text: str) -> Mapping[str, Any]:
    """Returns a JSON object; an empty one if `text` is not one, so that one damaged row does not hide all others."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
