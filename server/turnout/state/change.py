"""Transactions of the state store: changes in progress, recording of events, and checks of arguments."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from textwrap import shorten
from typing import Any

from semver import Version
from sqlalchemy import Connection, and_, delete, insert, select, update
from sqlalchemy.sql import ColumnElement

from turnout.errors import Conflict, InvalidRequest
from turnout.registry.manifest.names import MODEL_NAME
from turnout.state.database import schema
from turnout.state.database.engine import Database
from turnout.state.database.notifications import notify
from turnout.state.event_log import events
from turnout.state.event_log.events import Event, EventKind
from turnout.state.release_status import ReleaseStatus


@dataclass(slots=True)
class StateChange:
    """A change in progress, within its transaction.

    Attributes:
        connection: Connection in the transaction, with the revision locked.
        revision: Number of the last change. It increases with each recorded event.
    """

    connection: Connection
    revision: int
    model: str
    actor: str
    reason: str
    now: Callable[[], datetime]

    def standing(self, version: Version) -> ReleaseStatus:
        """Returns the release status of `version`."""
        query = select(schema.standings.c.standing).where(self._is_version(version))
        return ReleaseStatus(self.connection.execute(query).scalar_one_or_none() or ReleaseStatus.CANDIDATE)

    def set_status(self, version: Version, status: ReleaseStatus) -> None:
        """Sets the release status of `version`."""
        self.connection.execute(delete(schema.standings).where(self._is_version(version)))
        if status is not ReleaseStatus.CANDIDATE:
            row = {"model": self.model, "version": version_key(version), "standing": status.value}
            self.connection.execute(insert(schema.standings).values(row))

    def set_statuses(self, statuses: Mapping[Version, ReleaseStatus]) -> None:
        """Releases versions, or makes released ones candidates again, and records it.

        Raises:
            InvalidRequest: A version that is to be released is yanked.
        """
        for version, status in statuses.items():
            before = self.standing(version)
            if before is status or (status is ReleaseStatus.CANDIDATE and before is ReleaseStatus.YANKED):
                continue
            self.refuse_yanked(version)
            self.set_status(version, status)
            kind = EventKind.RELEASED if status is ReleaseStatus.RELEASED else EventKind.WITHDRAWN
            self.record(kind, str(version), {"version": str(version)})

    def refuse_yanked(self, version: Version) -> None:
        """Raises InvalidRequest if the version is yanked."""
        if self.standing(version) is ReleaseStatus.YANKED:
            raise InvalidRequest.at("version", f"{version} of {self.model} is yanked, and is never used again")

    def tags(self) -> dict[str, str]:
        """Returns the versions that the model's tags refer to, by tag."""
        query = select(schema.tags.c.tag, schema.tags.c.version).where(schema.tags.c.model == self.model)
        return {row.tag: row.version for row in self.connection.execute(query)}

    def refuse_moved_rollout(self, attempt: int, number: int) -> None:
        """Raises Conflict if the rollout has ended, or was written since `number`."""
        key = and_(schema.rollouts.c.model == self.model, schema.rollouts.c.attempt == attempt)
        row = self.connection.execute(select(schema.rollouts.c.number, schema.rollouts.c.final).where(key)).first()
        if row is None or row.number != number or row.final:
            raise Conflict(f"attempt {attempt} of {self.model} has been written by another server; look again")

    def _is_version(self, version: Version) -> ColumnElement[bool]:
        table = schema.standings.c
        return and_(table.model == self.model, table.version == version_key(version))

    def record(self, kind: EventKind, subject: str, payload: Mapping[str, Any]) -> Event:
        """Increments the revision and appends an event. The payload must consist of JSON values."""
        self.revision += 1
        self.connection.execute(update(schema.revision).values(number=self.revision))
        notify(self.connection)
        time = self.now().astimezone(UTC)
        event = Event(self.revision, time, self.model, kind, subject, self.actor, self.reason, payload)
        return events.append(self.connection, event)


def version_key(version: Version) -> str:
    """Returns the key of a version, which leaves out its build metadata."""
    return str(version.replace(build=None))


class Transactions:
    """Transactions that change the store. Base of the classes with the methods for each kind of data."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    @contextmanager
    def _change(
        self, model: str, actor: str, reason: str, version: Version | None = None, *, explained: bool = False
    ) -> Iterator[StateChange]:
        """Opens a transaction that can record a change of a model or its `version`. No other change runs meanwhile.

        If it is `explained`, the reason must not be empty.
        """
        check_model(model)
        if version is not None:
            check_text("version", str(version), schema.VERSION_LENGTH)
        check_text("reason", reason.strip(), schema.REASON_LENGTH, least=1 if explained else 0)
        with self._change_of_any(model, actor, reason) as change:
            yield change

    @contextmanager
    def _change_of_any(self, model: str, actor: str, reason: str) -> Iterator[StateChange]:
        """Opens such a transaction for any change; `model` is "" if the change does not concern a model."""
        check_text("actor", actor, schema.ACTOR_LENGTH)
        check_text("reason", reason, schema.REASON_LENGTH)
        with self._database.writing() as connection:
            # SQLite has no FOR UPDATE, and SQLAlchemy leaves it out there: BEGIN IMMEDIATE has locked the database.
            number = connection.execute(select(schema.revision.c.number).with_for_update()).scalar_one()
            yield StateChange(connection, int(number), model, actor, reason, self._now)


def set_by(actor: str, reason: str) -> str:
    """Returns who made another change and why, for an error message: the reason is shortened to fit on one line."""
    why = f": {shorten(reason, 200, placeholder=' ...')}" if reason else ""
    return f"set by {actor or 'an unnamed caller'}{why}"


def check_model(model: str) -> None:
    """Raises InvalidRequest if `model` is not a valid model name."""
    if not MODEL_NAME.fullmatch(model):
        raise InvalidRequest.at("model", f"expected a name of the form {MODEL_NAME.pattern}, got {model[:64]!r}")


def check_text(field: str, text: str, most: int, *, least: int = 0) -> None:
    """Raises InvalidRequest if text is not `least` to `most` bytes long, or has characters that a database rejects."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest.at(field, "expected text that UTF-8 can hold, got a lone surrogate") from None
    if not least <= size <= most:
        raise InvalidRequest.at(field, f"expected {least} to {most} bytes, got {size}")
    if "\0" in text:
        raise InvalidRequest.at(field, "expected text without NUL characters")


def check_limit(limit: int) -> None:
    """Raises InvalidRequest if a number of rows is below 1."""
    if limit < 1:
        raise InvalidRequest.at("limit", f"expected 1 or more, got {limit}")
