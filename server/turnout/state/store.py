"""What was declared about versions after their publication, kept in a database that several servers may share."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from semver import Version
from sqlalchemy import Connection, delete, insert, select, update

from turnout.errors import InvalidRequest, TagNotFound
from turnout.registry.manifest import MODEL_NAME
from turnout.registry.standing import Declarations, Declared, Standing
from turnout.state import events, migrations, schema
from turnout.state.engine import LOCK_WAIT, Database, Location
from turnout.state.events import Event, EventKind


class StateStore:
    """The declarations about all models.

    Its methods block, and may be called from any thread; any number of processes may have the same store open. Every
    change makes a new revision and writes one event, in one transaction with the change itself.
    """

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    @classmethod
    def open(
        cls, url: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC), lock_wait: float = LOCK_WAIT
    ) -> Self:
        """Opens the store, and makes it or brings it to this release's schema where it is not there.

        Args:
            url: `sqlite:///FILE`, its directory made if need be, or `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
            now: The clock that events are dated by; gives times with a zone.
            lock_wait: Seconds to wait for another writer.

        Raises:
            ConfigError: The URL is not one of those, the driver is not installed, the database cannot be used as it is
                set up, or its schema is of a later release.
            Unavailable: The database does not answer, or is locked.
        """
        database = Database(Location.parse(url), lock_wait=lock_wait)
        try:
            migrations.upgrade(database)
        except BaseException:
            database.close()
            raise
        return cls(database, now)

    def __repr__(self) -> str:
        return f"StateStore({self._database.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the calls that are running, then closes; later calls raise Unavailable."""
        self._database.close()

    def revision(self) -> int:
        """Returns the number of the latest change, 0 before the first. Reads one row, so it can be asked often.

        Raises:
            Unavailable: The database cannot be used now.
        """
        with self._database.reading() as connection:
            return _revision(connection)

    def declared(self) -> Declared:
        """Returns everything declared, as of one revision.

        Raises:
            Unavailable: The database cannot be used now.
        """
        standings: dict[str, dict[Version, Standing]] = {}
        tags: dict[str, dict[str, Version]] = {}
        with self._database.reading() as connection:
            number = _revision(connection)
            for row in connection.execute(select(schema.standings)):
                standings.setdefault(row.model, {})[Version.parse(row.version)] = Standing(row.standing)
            for row in connection.execute(select(schema.tags)):
                tags.setdefault(row.model, {})[row.tag] = Version.parse(row.version)
        return Declared(
            number,
            {
                model: Declarations(standings.get(model, {}), tags.get(model, {}))
                for model in standings.keys() | tags.keys()
            },
        )

    def release(self, model: str, version: Version, *, actor: str, reason: str) -> bool:
        """Declares a version fit for general traffic.

        Args:
            model: Its model.
            version: Which; whether it was published is for the caller to know.
            actor: Who asks, at most 256 bytes.
            reason: Why, at most 1,024 bytes.

        Returns:
            False where it was released already; nothing is changed or logged then.

        Raises:
            InvalidRequest: The version is yanked, or an argument is too long.
            Unavailable: The database cannot be used now.
        """
        _check_text("version", str(version), schema.VERSION_LENGTH)
        with self._change(model, actor, reason) as change:
            if change.standing(version) is Standing.RELEASED:
                return False
            change.refuse_yanked(version)
            change.connection.execute(
                insert(schema.standings).values(model=model, version=_key(version), standing=Standing.RELEASED.value)
            )
            change.record(EventKind.RELEASED, str(version), {"version": str(version)})
        return True

    def set_tag(self, model: str, tag: str, version: Version, *, actor: str, reason: str) -> Version | None:
        """Makes a tag name a version.

        Args:
            model: Its model.
            tag: Its name, at most 63 bytes; that it reads as no version or range is for the caller to know.
            version: What it shall name.
            actor: Who asks, at most 256 bytes.
            reason: Why, at most 1,024 bytes.

        Returns:
            The version that it named before, None where it is new. Where that is the same, nothing is
            changed or logged.

        Raises:
            InvalidRequest: The version is yanked, or an argument is too long.
            Unavailable: The database cannot be used now.
        """
        _check_text("version", str(version), schema.VERSION_LENGTH)
        _check_text("tag", tag, schema.NAME_LENGTH, least=1)
        with self._change(model, actor, reason) as change:
            change.refuse_yanked(version)
            previous = change.tags().get(tag)
            if previous == str(version):
                return version
            if previous is None:
                change.connection.execute(insert(schema.tags).values(model=model, tag=tag, version=str(version)))
            else:
                change.connection.execute(update(schema.tags).where(*_is_tag(model, tag)).values(version=str(version)))
            change.record(EventKind.TAG_SET, tag, {"tag": tag, "version": str(version), "previous": previous})
        return None if previous is None else Version.parse(previous)

    def delete_tag(self, model: str, tag: str, *, actor: str, reason: str) -> Version:
        """Removes a tag.

        Args:
            model: Its model.
            tag: Its name.
            actor: Who asks, at most 256 bytes.
            reason: Why, at most 1,024 bytes.

        Returns:
            The version that it named.

        Raises:
            TagNotFound: The model has no such tag; names the nearest.
            InvalidRequest: An argument is too long.
            Unavailable: The database cannot be used now.
        """
        _check_text("tag", tag, schema.NAME_LENGTH, least=1)
        with self._change(model, actor, reason) as change:
            known = change.tags()
            if tag not in known:
                raise TagNotFound.of(model, tag, sorted(known))
            change.connection.execute(delete(schema.tags).where(*_is_tag(model, tag)))
            change.record(EventKind.TAG_DELETED, tag, {"tag": tag, "previous": known[tag]})
        return Version.parse(known[tag])

    def events(self, model: str | None = None, limit: int = 100) -> list[Event]:
        """Returns the last changes, newest first.

        Args:
            model: Of this model only; None: of all.
            limit: At most that many, 1 or more.

        Raises:
            InvalidRequest: `limit` is below 1.
            Unavailable: The database cannot be used now.
        """
        if limit < 1:
            raise InvalidRequest.at("limit", f"expected 1 or more, got {limit}")
        with self._database.reading() as connection:
            return events.latest(connection, model, limit)

    @contextmanager
    def _change(self, model: str, actor: str, reason: str) -> Iterator["_Change"]:
        """A transaction that may record a change of `model`; no other one changes anything until it ends."""
        if not MODEL_NAME.fullmatch(model):
            raise InvalidRequest.at("model", f"expected a name of the form {MODEL_NAME.pattern}, got {model[:64]!r}")
        _check_text("actor", actor, schema.ACTOR_LENGTH)
        _check_text("reason", reason, schema.REASON_LENGTH)
        with self._database.writing() as connection:
            # SQLite knows no FOR UPDATE, and SQLAlchemy leaves it out there: BEGIN IMMEDIATE has locked all.
            number = connection.execute(select(schema.revision.c.number).with_for_update()).scalar_one()
            yield _Change(connection, int(number), model, actor, reason, self._now)


@dataclass(frozen=True, slots=True)
class _Change:
    """A change under way, in its transaction.

    Attributes:
        connection: In the transaction, with the revision locked.
        revision: The number of the change before.
        model: The model that changes.
        actor: Who asks.
        reason: Why.
        now: The clock.
    """

    connection: Connection
    revision: int
    model: str
    actor: str
    reason: str
    now: Callable[[], datetime]

    def standing(self, version: Version) -> Standing:
        query = select(schema.standings.c.standing).where(
            schema.standings.c.model == self.model, schema.standings.c.version == _key(version)
        )
        return Standing(self.connection.execute(query).scalar_one_or_none() or Standing.CANDIDATE)

    def refuse_yanked(self, version: Version) -> None:
        if self.standing(version) is Standing.YANKED:
            raise InvalidRequest.at("version", f"{version} of {self.model} is yanked, and is never used again")

    def tags(self) -> dict[str, str]:
        query = select(schema.tags.c.tag, schema.tags.c.version).where(schema.tags.c.model == self.model)
        return {row.tag: row.version for row in self.connection.execute(query)}

    def record(self, kind: EventKind, subject: str, payload: Mapping[str, str | None]) -> None:
        """Makes the next revision, and the event that tells of it."""
        number = self.revision + 1
        self.connection.execute(update(schema.revision).values(number=number))
        event = Event(number, self.now(), self.model, kind, subject, self.actor, self.reason, payload)
        events.append(self.connection, event)


def _revision(connection: Connection) -> int:
    return int(connection.execute(select(schema.revision.c.number)).scalar_one())


def _is_tag(model: str, tag: str) -> tuple[Any, Any]:
    return schema.tags.c.model == model, schema.tags.c.tag == tag


def _key(version: Version) -> str:
    return str(version.replace(build=None))


def _check_text(field: str, text: str, most: int, *, least: int = 0) -> None:
    """Refuses text of fewer than `least` or more than `most` bytes, or that not both databases can hold."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest.at(field, "expected text that UTF-8 can hold, got a lone surrogate") from None
    if not least <= size <= most:
        raise InvalidRequest.at(field, f"expected {least} to {most} bytes, got {size}")
    if "\0" in text:
        raise InvalidRequest.at(field, "expected text without NUL characters")
