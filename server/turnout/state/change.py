"""A change in progress: access to the current state, recording of events, and checks of arguments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from textwrap import shorten
from typing import Any

from semver import Version
from sqlalchemy import Connection, and_, delete, insert, select, update
from sqlalchemy.sql import ColumnElement

from turnout.errors import Conflict, InvalidRequest
from turnout.registry.manifest.names import MODEL_NAME
from turnout.state import policies
from turnout.state.database import schema
from turnout.state.database.notifications import notify
from turnout.state.event_log import events
from turnout.state.event_log.events import Event, EventKind
from turnout.state.release_status import ReleaseStatus

_REASON_QUOTED = 200  # characters of another change's reason that an error message quotes, to stay on one line


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

    def refuse_yanked(self, version: Version) -> None:
        """Raises InvalidRequest if the version is yanked."""
        if self.standing(version) is ReleaseStatus.YANKED:
            raise InvalidRequest.at("version", f"{version} of {self.model} is yanked, and is never used again")

    def tags(self) -> dict[str, str]:
        """Returns the versions that the model's tags refer to, by tag."""
        query = select(schema.tags.c.tag, schema.tags.c.version).where(schema.tags.c.model == self.model)
        return {row.tag: row.version for row in self.connection.execute(query)}

    def refuse_other_epoch(self, expected: int) -> None:
        """Raises Conflict if the policy's current epoch is not `expected`, on which the change was based."""
        last = policies.latest(self.connection, self.model, limit=1)
        if not last and expected != 0:
            raise Conflict(f"{self.model} has never had a policy, so none of epoch {expected} is in force; look again")
        if last and last[0].epoch != expected:
            is_at = f"the policy of {self.model} is at epoch {last[0].epoch}"
            by_now = " by now" if last[0].epoch > expected else ""
            by = last[0].actor or "an unnamed caller"
            why = f": {shorten(last[0].reason, _REASON_QUOTED, placeholder=' ...')}" if last[0].reason else ""
            raise Conflict(f"{is_at}{by_now}, not {expected} (set by {by}{why}); look again")

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
