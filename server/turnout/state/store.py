"""What was declared about versions after their publication, and the policies between them.

Kept in a database that several servers may share.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from semver import Version
from sqlalchemy import Connection, delete, insert, select, update

from turnout.errors import NotFound, TagNotFound
from turnout.registry.standing import Declarations, Declared, Standing
from turnout.state import events, migrations, policies, rollouts, schema
from turnout.state.change import Change, check_limit, check_model, check_text, version_key
from turnout.state.engine import LOCK_WAIT, Database, Location
from turnout.state.events import Event, EventKind
from turnout.state.policies import PolicyRecord
from turnout.state.rollouts import RolloutRecord, RolloutWrite


class StateStore:
    """The declarations about all models, and their policies.

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
        check_text("version", str(version), schema.VERSION_LENGTH)
        with self._change(model, actor, reason) as change:
            if change.standing(version) is Standing.RELEASED:
                return False
            change.refuse_yanked(version)
            change.connection.execute(
                insert(schema.standings).values(
                    model=model, version=version_key(version), standing=Standing.RELEASED.value
                )
            )
            change.record(EventKind.RELEASED, str(version), {"version": str(version)})
        return True

    def withdraw(self, model: str, version: Version, *, actor: str, reason: str) -> bool:
        """Makes a released version a candidate again: a rollout that released it has taken it back.

        Returns:
            False where it is not released; nothing is changed or logged then.

        Raises:
            InvalidRequest: An argument is too long.
            Unavailable: The database cannot be used now.
        """
        with self._change(model, actor, reason) as change:
            if change.standing(version) is not Standing.RELEASED:
                return False
            change.connection.execute(
                delete(schema.standings).where(
                    schema.standings.c.model == model, schema.standings.c.version == version_key(version)
                )
            )
            change.record(EventKind.WITHDRAWN, str(version), {"version": str(version)})
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
        check_text("version", str(version), schema.VERSION_LENGTH)
        check_text("tag", tag, schema.NAME_LENGTH, least=1)
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
        check_text("tag", tag, schema.NAME_LENGTH, least=1)
        with self._change(model, actor, reason) as change:
            known = change.tags()
            if tag not in known:
                raise TagNotFound.of(model, tag, sorted(known))
            change.connection.execute(delete(schema.tags).where(*_is_tag(model, tag)))
            change.record(EventKind.TAG_DELETED, tag, {"tag": tag, "previous": known[tag]})
        return Version.parse(known[tag])

    def policies(self) -> dict[str, PolicyRecord]:
        """Returns the policy in force of each model that ever had one; its document is empty where it has none now.

        Raises:
            Unavailable: The database cannot be used now.
        """
        with self._database.reading() as connection:
            return {record.model: record for record in policies.in_force(connection)}

    def policy_history(self, model: str, limit: int = 100) -> list[PolicyRecord]:
        """Returns the last epochs of a model's policy, newest first.

        Args:
            model: Whose; of one that never had a policy there are none.
            limit: At most that many, 1 or more.

        Raises:
            InvalidRequest: `limit` is below 1, or `model` can be no model's name.
            Unavailable: The database cannot be used now.
        """
        check_model(model)
        check_limit(limit)
        with self._database.reading() as connection:
            return policies.latest(connection, model, limit)

    def policy_at(self, model: str, epoch: int) -> PolicyRecord:
        """Returns one epoch of a model's policy.

        Raises:
            NotFound: There was no such epoch; names those there were.
            InvalidRequest: `model` can be no model's name.
            Unavailable: The database cannot be used now.
        """
        check_model(model)
        with self._database.reading() as connection:
            last = policies.last_epoch(connection, model)
            if 1 <= epoch <= last:
                return policies.at(connection, model, epoch)
        if last == 0:
            raise NotFound(f"{model} has never had a policy")
        were = "epoch 1 only" if last == 1 else f"epochs 1 to {last}"
        raise NotFound(f"there is no epoch {epoch}: the policy of {model} has had {were}")

    def put_policy(
        self, model: str, document: Mapping[str, Any], *, expected_epoch: int, action: str, actor: str, reason: str
    ) -> PolicyRecord:
        """Puts the next epoch of a model's policy in force, if the one before is still the one that was looked at.

        Args:
            model: Its model.
            document: The policy as a JSON object, at most 256 KiB in canonical form; empty: none from now on. That it
                means something is for the caller to know.
            expected_epoch: The epoch that it is to follow, 0 where there is none.
            action: What is done, in a word of 1 to 32 bytes.
            actor: Who asks, at most 256 bytes.
            reason: Why, at most 1,024 bytes.

        Returns:
            What is in force now, its document as it will be read again.

        Raises:
            Conflict: Another epoch is in force; says which, who set it, and why.
            InvalidRequest: The document is too large or too deep, or JSON cannot hold it; or another argument is too
                long.
            Unavailable: The database cannot be used now.
        """
        check_text("action", action, schema.ACTION_LENGTH, least=1)
        kept = policies.as_kept(document)
        with self._change(model, actor, reason) as change:
            change.refuse_other_epoch(expected_epoch)
            epoch = expected_epoch + 1
            payload = {"epoch": epoch, "action": action, "document": kept}
            event = change.record(EventKind.POLICY_CHANGED, f"epoch {epoch}", payload)
            record = PolicyRecord(model, epoch, event.id, event.time, action, actor, reason, kept)
            policies.append(change.connection, record)
        return record

    def put_rollout(self, model: str, wanted: RolloutWrite, *, actor: str, reason: str) -> RolloutRecord:
        """Writes a rollout, what its ticks counted and what is to be told, in one transaction.

        Raises:
            Conflict: Another server wrote it meanwhile.
            InvalidRequest: An argument is too long.
            Unavailable: The database cannot be used now.
        """
        with self._change(model, actor, reason) as change:

            def tell(kind: EventKind, subject: str, payload: Mapping[str, Any]) -> None:
                nonlocal change
                event = change.record(kind, subject, payload)
                change = replace(change, revision=event.id)

            return rollouts.write(change.connection, model, wanted, self._now(), tell)

    def rollouts(
        self, model: str | None = None, *, running: bool = False, limit: int = 100, attempt: int | None = None
    ) -> list[RolloutRecord]:
        """Returns rollouts, the newest first.

        Args:
            model: Of this model only; None: of all.
            running: Only those that have not ended.
            limit: At most that many, 1 or more.
            attempt: Only this one of the model.

        Raises:
            InvalidRequest: `limit` is below 1.
            Unavailable: The database cannot be used now.
        """
        check_limit(limit)
        with self._database.reading() as connection:
            return rollouts.latest(connection, model, limit, running=running, attempt=attempt)

    def rollout_ticks(
        self, model: str, attempt: int, after: int = 0, limit: int = 10_000
    ) -> list[tuple[int, datetime, dict[str, Any]]]:
        """Returns the ticks of a rollout, in order: number, when it was written, and what it counted.

        Args:
            model: Its model.
            attempt: Its number.
            after: Number of the last tick that is left out.
            limit: At most that many, 1 or more.

        Raises:
            InvalidRequest: `limit` is below 1.
            Unavailable: The database cannot be used now.
        """
        check_limit(limit)
        with self._database.reading() as connection:
            return rollouts.ticks(connection, model, attempt, after, limit)

    def events(self, model: str | None = None, limit: int = 100, *, rollout: int | None = None) -> list[Event]:
        """Returns the last changes, newest first.

        Args:
            model: Of this model only; None: of all.
            limit: At most that many, 1 or more.
            rollout: Of this attempt of the model only.

        Raises:
            InvalidRequest: `limit` is below 1.
            Unavailable: The database cannot be used now.
        """
        check_limit(limit)
        with self._database.reading() as connection:
            return events.latest(connection, model, limit, rollout)

    @contextmanager
    def _change(self, model: str, actor: str, reason: str) -> Iterator[Change]:
        """A transaction that may record a change of `model`; no other one changes anything until it ends."""
        check_model(model)
        check_text("actor", actor, schema.ACTOR_LENGTH)
        check_text("reason", reason, schema.REASON_LENGTH)
        with self._database.writing() as connection:
            # SQLite knows no FOR UPDATE, and SQLAlchemy leaves it out there: BEGIN IMMEDIATE has locked all.
            number = connection.execute(select(schema.revision.c.number).with_for_update()).scalar_one()
            yield Change(connection, int(number), model, actor, reason, self._now)


def _revision(connection: Connection) -> int:
    return int(connection.execute(select(schema.revision.c.number)).scalar_one())


def _is_tag(model: str, tag: str) -> tuple[Any, Any]:
    return schema.tags.c.model == model, schema.tags.c.tag == tag
