"""The state store: releases, tags, policies, rollouts, and the log of all changes.

The state is in a database that several servers can share.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, ParamSpec, Self, TypeVar

from semver import Version
from sqlalchemy import Connection, select

from turnout.errors import ChangeRefused, NotFoundError
from turnout.registry.manifest.versions import known_version
from turnout.state import audit, model_changes, policies, rollouts
from turnout.state.audit import Audit
from turnout.state.change import check_limit, check_model, check_text
from turnout.state.coordination import Sharing
from turnout.state.database import migrations, schema
from turnout.state.database.engine import LOCK_WAIT, Database, Location
from turnout.state.event_log import chain, events, retention
from turnout.state.event_log.chain import Head
from turnout.state.event_log.events import Event, EventKind
from turnout.state.model_changes import ModelChange, StatusChange, StoredModel, status_changes
from turnout.state.policies import PolicyRecord
from turnout.state.release_status import ModelReleaseState, ReleaseState, ReleaseStatus
from turnout.state.releases import VersionUses, uses, yank_reasons
from turnout.state.rollouts import RolloutRecord, RolloutWrite
from turnout.threads import Threads

_THREADS = 4
"""Number of threads, equal to the number of pooled database connections."""

_REVISION = select(schema.revision.c.number)

P = ParamSpec("P")
T = TypeVar("T")


class StateStore(Sharing):
    """Releases, tags, policies and rollouts of all models, and the log of all changes.

    Methods block, and can be called from any thread. Any number of processes can open the same store. Every change
    creates a new revision and writes one event, in the same transaction as the change. Every method raises
    UnavailableError while the database cannot be used.
    """

    @classmethod
    def open(
        cls, url: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC), lock_wait: float = LOCK_WAIT
    ) -> Self:
        """Opens the store, and creates its schema or migrates it to this release's.

        Args:
            url: `sqlite:///FILE`, whose directory is created if needed, or
                `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
            now: Clock that dates the events. Returns times with a time zone.
            lock_wait: Seconds to wait for another writer.

        Raises:
            ConfigError: The URL is not one of those, the driver is not installed, the database cannot be used as it is
                set up, or its schema is of a later release.
            UnavailableError: The database does not respond, or is locked.
        """
        database = Database(Location.parse(url), lock_wait=lock_wait)
        try:
            migrations.upgrade(database)
        except BaseException:
            database.close()
            raise
        return cls(database, now)

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        super().__init__(database, now)
        self._threads = Threads("state", _THREADS)

    async def in_thread(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs one of this store's methods in one of its threads, so that other blocked work cannot delay it."""
        return await self._threads.run(call, *args, **kwargs)

    def __repr__(self) -> str:
        return f"StateStore({self._database.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for running calls, then closes. Later calls raise UnavailableError."""
        self._database.close()
        self._threads.shutdown(cancel_futures=False)  # queued calls run, and find that the store is closed

    def revision(self) -> int:
        """Returns the number of the latest change; 0 before the first. Cheap: it reads two rows."""
        with self._database.reading() as connection:
            head = chain.head(connection)
            number = _revision(connection)
        if head.revision:
            self._database.mark(head.revision, head.hash)
        return number

    def check(self) -> None:
        """Checks that the database can be read and written, and that its contents are intact.

        Raises:
            UnavailableError: The check failed; the message says why and what to do.
        """
        self._database.check()

    def release_state(self) -> ReleaseState:
        """Returns the release status and tags of all models, as of one revision."""
        standings: dict[str, dict[Version, ReleaseStatus]] = {}
        tags: dict[str, dict[str, Version]] = {}
        reasons: dict[str, dict[Version, str]] = {}
        digests: dict[str, dict[Version, str]] = {}
        with self._database.reading() as connection:
            number = _revision(connection)
            for row in connection.execute(select(schema.standings)):
                standings.setdefault(row.model, {})[known_version(row.version)] = ReleaseStatus(row.standing)
            for row in connection.execute(select(schema.tags)):
                tags.setdefault(row.model, {})[row.tag] = known_version(row.version)
            for (model, version), reason in yank_reasons(connection).items():
                if standings.get(model, {}).get(version) is ReleaseStatus.YANKED:
                    reasons.setdefault(model, {})[version] = reason
            pruned = audit.pruned(connection)
            for (model, text), digest in audit.published(connection).items():
                digests.setdefault(model, {})[known_version(text)] = digest
        return ReleaseState(
            number,
            {
                model: ModelReleaseState(
                    standings.get(model, {}),
                    tags.get(model, {}),
                    reasons.get(model, {}),
                    digests.get(model, {}),
                    pruned.get(model, frozenset()),
                )
                for model in standings.keys() | tags.keys() | digests.keys()
            },
        )

    def policies(self) -> dict[str, PolicyRecord]:
        """Returns the policy in force of each model that ever had one. Its document is empty if it has none now."""
        with self._database.reading() as connection:
            return {record.model: record for record in policies.in_force(connection)}

    def policy_history(self, model: str, limit: int = 100) -> list[PolicyRecord]:
        """Returns the last epochs of a model's policy, newest first; none if it never had a policy.

        Raises:
            InvalidRequest: `limit` is below 1, or `model` is not a valid name.
        """
        check_model(model)
        check_limit(limit)
        with self._database.reading() as connection:
            return policies.latest(connection, model, limit)

    def policy_at(self, model: str, epoch: int) -> PolicyRecord:
        """Returns one epoch of a model's policy.

        Raises:
            NotFoundError: The epoch does not exist; the message says which do.
            InvalidRequest: `model` is not a valid name.
        """
        check_model(model)
        with self._database.reading() as connection:
            last = policies.last_epoch(connection, model)
            if 1 <= epoch <= last:
                if (found := policies.at(connection, model, epoch)) is None:
                    raise NotFoundError(f"epoch {epoch} of the policy of {model} was removed by the retention")
                return found
        if last == 0:
            raise NotFoundError(f"{model} has never had a policy")
        were = "epoch 1 only" if last == 1 else f"epochs 1 to {last}"
        raise NotFoundError(f"there is no epoch {epoch}: the policy of {model} has had {were}")

    def put_policy(
        self,
        model: str,
        document: Mapping[str, Any],
        *,
        expected_epoch: int,
        action: str,
        actor: str,
        reason: str,
        needs: Iterable[Version] = (),
        statuses: Mapping[Version, ReleaseStatus] | None = None,
        rollout: tuple[int, int] | None = None,
    ) -> PolicyRecord:
        """Puts the next epoch of a model's policy into force, if the current epoch is the expected one.

        Args:
            model: Name of the model.
            document: The policy as a JSON object of at most 256 KiB in canonical form; empty to have none from now on.
                The caller must make sure that it is valid.
            expected_epoch: Epoch that the new one follows; 0 if there is none.
            action: One word for what is done, of 1 to 32 bytes.
            actor: Who makes the change, at most 256 bytes.
            reason: Why, at most 1,024 bytes.
            needs: Versions that must not be yanked at the moment of the change.
            statuses: Versions to release, or to make candidates again, with the change.
            rollout: Attempt and number of the rollout that makes the change. It must not have ended, or have been
                written since.

        Returns:
            The record now in force, with its document as it will be read from the store.

        Raises:
            Conflict: Another epoch is in force; the message says which, who set it, and why. Or the rollout has ended
                or was written since.
            InvalidRequest: The document is too large, too deep, or not valid as JSON; another argument is too long; or
                a version that it needs is yanked.
        """
        check_text("action", action, schema.ACTION_LENGTH, least=1)
        kept = policies.as_kept(document)
        with self._change(model, actor, reason) as change:
            change.refuse_other_epoch(expected_epoch)
            if rollout is not None:
                change.refuse_moved_rollout(*rollout)
            for version in needs:
                change.refuse_yanked(version)
            record = model_changes.put_policy(change, expected_epoch + 1, action, kept)
            model_changes.set_statuses(change, statuses or {})
        return record

    def decide(
        self, model: str, make: Callable[[StoredModel], ModelChange], *, actor: str, reason: str
    ) -> tuple[PolicyRecord | None, list[RolloutRecord]]:
        """Decides on a change of a model and records it, in one transaction.

        `make` reads the model, which cannot be changed by others meanwhile, and returns the change. If it raises,
        nothing is changed.

        Returns:
            The policy that was put into force, or None; and the rollouts that were written.

        Raises:
            InvalidRequest: A version that is to be released is yanked.
        """
        with self._change(model, actor, reason) as change:
            return model_changes.record(change, make(StoredModel(change)), self._now())

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
            return rollouts.write(change.connection, model, wanted, self._now(), change.record)

    def rollouts(
        self, model: str | None = None, *, running: bool = False, limit: int = 100, attempt: int | None = None
    ) -> list[RolloutRecord]:
        """Returns rollouts, newest first: of all models, of one model, or one attempt of it.

        Raises:
            InvalidRequest: `limit` is below 1.
        """
        check_limit(limit)
        with self._database.reading() as connection:
            return rollouts.latest(connection, model, limit, running=running, attempt=attempt)

    def rollout_ticks(
        self, model: str, attempt: int, after: int = 0, limit: int = 10_000
    ) -> list[tuple[int, datetime, dict[str, Any]]]:
        """Returns the ticks of a rollout after number `after`: number, time of writing, and counts.

        Raises:
            InvalidRequest: `limit` is below 1.
        """
        check_limit(limit)
        with self._database.reading() as connection:
            return rollouts.ticks(connection, model, attempt, after, limit)

    def events(self, model: str | None = None, limit: int = 100, *, rollout: int | None = None) -> list[Event]:
        """Returns the last changes, newest first: of all models, of one model, or of one rollout of it.

        Raises:
            InvalidRequest: `limit` is below 1.
        """
        check_limit(limit)
        with self._database.reading() as connection:
            return events.latest(connection, model, limit, rollout=rollout)

    def status_changes(self, since: int) -> dict[str, list[StatusChange]]:
        """Returns the changes of release statuses after revision `since`, by model, oldest first."""
        with self._database.reading() as connection:
            return status_changes(connection, None, since)

    def now(self) -> datetime:
        """Returns the current time of the clock that dates changes."""
        return self._now()

    def head(self) -> Head:
        """Returns the number and hash of the log's last event, to be kept outside of the store."""
        with self._database.reading() as connection:
            return chain.head(connection)

    def audit(self, kept: Head | None = None) -> Audit:
        """Reads the whole log, and checks that it was not tampered with and that the other tables agree with it.

        `kept` is a head that was saved earlier.
        """
        with self._database.reading() as connection:
            return audit.read(connection, kept)

    def publish_times(self) -> Mapping[tuple[str, str], datetime]:
        """Returns when the publication of each version was last recorded, in UTC, by model and version."""
        with self._database.reading() as connection:
            return audit.publish_times(connection)

    def uses(self, model: str, version: Version) -> VersionUses:
        """Returns what refers to a version."""
        with self._database.reading() as connection:
            return uses(connection, model, version)

    def expire_ticks(self, before: datetime, most: int = 5000) -> int:
        """Removes at most `most` old ticks of ended rollouts in one short transaction; returns the number removed."""
        with self._database.writing() as connection:
            return rollouts.expire_ticks(connection, before, most)

    def remove_events(self, model: str, before: datetime, most: int = 1000) -> int:
        """Removes a model's old events about policies and ended rollouts, in one transaction.

        The last event of each rollout and the events of the last hundred policies are kept, and the chain can still be
        verified. Removes at most `most` events from before a time, oldest first, and returns their number.
        """
        with self._database.reading() as connection:  # the search does not block changes
            numbers = retention.removable(connection, model, before, most)
        if not numbers:
            return 0
        with self._change(model, "retention", "") as change:
            links = retention.remove(change.connection, numbers)
            if links:  # empty if another server has removed them in the meantime
                payload = {
                    "ids": [number for number, _, _ in links],
                    "before": events.time_text(before),
                    "digest": chain.removed_digest(links),
                }
                change.record(EventKind.REMOVED, f"{len(links)} events", payload)
        return len(links)

    def logged_models(self) -> list[str]:
        """Returns the models that have events in the log."""
        with self._database.reading() as connection:
            return list(connection.execute(select(schema.events.c.model).distinct()).scalars())

    def published(self) -> Mapping[tuple[str, str], str]:
        """Returns the digest of every version whose publication was recorded, by model and version."""
        with self._database.reading() as connection:
            return audit.published(connection)


def _revision(connection: Connection) -> int:
    return int(connection.execute(_REVISION).scalar_one())
