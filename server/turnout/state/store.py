"""The state store: releases, tags, policies, rollouts, and the log of all changes.

The state is in a database that several servers can share.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import ParamSpec, Self, TypeVar

from sqlalchemy import select

from turnout.state import audit, policies, rollouts
from turnout.state.audit import Audit
from turnout.state.change import check_limit, check_text
from turnout.state.database import migrations, schema
from turnout.state.database.engine import LOCK_WAIT, Database, Location
from turnout.state.event_log import chain, events, retention
from turnout.state.event_log.chain import Head
from turnout.state.event_log.events import Event, EventKind
from turnout.state.model_changes import ModelChange, StatusChange, StoredModel, status_changes
from turnout.state.policies import PolicyRecord, PolicyStore
from turnout.state.releases import ReleaseStore
from turnout.state.rollouts import RolloutRecord, RolloutStore
from turnout.state.servers import ServerStore
from turnout.state.tokens import TokenStore
from turnout.threads import Threads

_THREADS = 4
"""Number of threads, equal to the number of pooled database connections."""

_REVISION = select(schema.revision.c.number)

P = ParamSpec("P")
T = TypeVar("T")


class StateStore(ReleaseStore, PolicyStore, RolloutStore, ServerStore, TokenStore):
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
            number = int(connection.execute(_REVISION).scalar_one())
        if head.revision:
            self._database.mark(head.revision, head.hash)
        return number

    def check(self) -> None:
        """Checks that the database can be read and written, and that its contents are intact.

        Raises:
            UnavailableError: The check failed; the message says why and what to do.
        """
        self._database.check()

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
            wanted = make(StoredModel(change))
            written = [
                rollouts.write(change.connection, model, one, self._now(), change.record) for one in wanted.rollouts
            ]
            policy = None
            if wanted.policy is not None:
                check_text("action", wanted.action, schema.ACTION_LENGTH, least=1)
                epoch = policies.last_epoch(change.connection, model) + 1
                # Before the statuses, so that no other version seems to have answered plain requests in between.
                policy = policies.put(change, epoch, wanted.action, policies.as_kept(wanted.policy))
            change.set_statuses(wanted.statuses)
            return policy, written

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
