"""Tracks the running rollouts, and which of them this server drives, by leases in the state store. No I/O."""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from semver import Version

from turnout.errors import ChangeRefused, NotFoundError, Unsupported
from turnout.rollout.engine.active_rollout import UNKNOWN, ActiveRollout
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.records import UnreadableRollout, read_record
from turnout.routing.policy_holds import rollout_holds
from turnout.serving.versions.hold import Hold
from turnout.state.rollouts import RolloutRecord

Key = tuple[str, int]
"""Model and attempt."""


class Ownership:
    """The rollouts that have not ended. Used only on the event loop.

    Attributes:
        driver: This server's name in leases, which differs at every start.
    """

    def __init__(self, lease_seconds: float, server: Callable[[], str]) -> None:
        """Creates the object. No rollout is known before `reconcile`.

        No other server may drive a rollout during a lease. `server` returns this server's name in counts.
        """
        self._server = server
        self._lease_seconds = lease_seconds
        self.driver = uuid.uuid4().hex
        self._active: dict[Key, ActiveRollout] = {}
        self._foreign: dict[Key, ActiveRollout] = {}
        self._unreadable: dict[Key, UnreadableRollout] = {}
        self._last_writes: dict[Key, tuple[int, float]] = {}

    @property
    def active(self) -> Sequence[ActiveRollout]:
        """The rollouts that this server drives, ordered by model and attempt."""
        return [active for _, active in sorted(self._active.items())]

    @property
    def numbers(self) -> Mapping[Key, int]:
        """The number of the last write of each rollout that this server drives."""
        return {key: active.number for key, active in self._active.items()}

    @property
    def unreadable(self) -> Sequence[UnreadableRollout]:
        """The rollouts that this release cannot read. This server drives none of them."""
        return list(self._unreadable.values())

    @property
    def running(self) -> Sequence[Rollout]:
        """All rollouts, including those that other servers drive, ordered by model and attempt."""
        every = (*(a.rollout for a in self._active.values()), *(f.rollout for f in self._foreign.values()))
        return sorted((r for r in every if not r.state.final), key=lambda r: (r.model, r.attempt))

    def holds(self, model: str) -> Mapping[Version, Hold]:
        """Returns the versions that rollouts need in memory, and why."""
        found: dict[Version, Hold] = {}
        for rollout in self.running:
            if rollout.model == model:
                found |= rollout_holds(model, rollout.attempt, rollout.candidate, rollout.previous)
        return found

    def of(self, model: str) -> Sequence[ActiveRollout]:
        """Returns the rollouts of a model that this server drives."""
        return [active for (name, _), active in sorted(self._active.items()) if name == model]

    def of_model(self, model: str) -> Sequence[Rollout]:
        """Returns all running rollouts of a model, including those that other servers drive."""
        return [rollout for rollout in self.running if rollout.model == model]

    def find(self, model: str, attempt: int) -> ActiveRollout | None:
        """Returns a rollout; None if this server does not drive it."""
        return self._active.get((model, attempt))

    @property
    def foreign(self) -> Sequence[ActiveRollout]:
        """The rollouts that other servers drive, ordered by model and attempt. This server counts for them too."""
        return [active for _, active in sorted(self._foreign.items())]

    def take(self, model: str, attempt: int = 0) -> None:
        """Takes over the rollout, or for attempt 0 all, from other servers, which notice it at their next write."""
        for key in [key for key in self._foreign if key[0] == model and attempt in (0, key[1])]:
            taken = self._active[key] = self._foreign.pop(key)
            if taken.unread is not None and isinstance(rollout := read_record(taken.unread), Rollout):
                taken.rollout, taken.unread = rollout, None

    def add(self, active: ActiveRollout) -> None:
        """Starts to drive a rollout."""
        self._active[active.rollout.model, active.rollout.attempt] = active

    def lose(self, rollout: Rollout) -> None:
        """Stops driving a rollout that another server drives now. Counts made here are sent to that server."""
        key = rollout.model, rollout.attempt
        if (active := self._active.pop(key, None)) is not None:
            active.lost(self._server())
            self._foreign[key] = active

    def drop(self, rollout: Rollout) -> None:
        """Stops driving a rollout and counting for it."""
        self._drop((rollout.model, rollout.attempt))

    def named(self, model: str, attempt: int) -> ActiveRollout:
        """Returns a rollout that this server drives; for `attempt` 0, the one that is not queued.

        Raises:
            NotFoundError: No such rollout is running.
            ChangeRefused: Several rollouts are running, and none was named.
            Unsupported: It cannot be read; the message says how to resolve it.
        """
        keys = [key for key in sorted(self._active) if key[0] == model and attempt in (0, key[1])]
        going = [key for key in keys if self._may_advance(key)] if not attempt else keys
        for key, unreadable in self._unreadable.items():
            if not going and key[0] == model and attempt in (0, key[1]):
                raise Unsupported(unreadable.sentence)
        if not going:
            raise NotFoundError(f"no rollout {f'{attempt} ' if attempt else ''}of {model} is active")
        if len(going) > 1:
            several = ", ".join(f"{number} ({self._active[model, number].rollout.candidate})" for _, number in going)
            raise ChangeRefused(f"several rollouts of {model} run: say which attempt, {several}")
        return self._active[going[0]]

    def may_advance(self, rollout: Rollout) -> bool:
        """Returns whether a rollout is driven here and may progress. One that is queued waits for earlier ones."""
        key = rollout.model, rollout.attempt
        return key in self._active and self._may_advance(key)

    @property
    def counted(self) -> Sequence[ActiveRollout]:
        """The rollouts that requests are counted for here: all that are not queued, also those of other servers."""
        every = {**self._active, **self._foreign}
        return [active for key, active in sorted(every.items()) if self._may_advance(key)]

    def rivals(self, model: str) -> int:
        """Returns the number of rollouts of a model that are not queued."""
        return sum(key[0] == model and self._may_advance(key) for key in (*self._active, *self._foreign))

    def reconcile(
        self,
        records: Sequence[RolloutRecord],
        now: float,
        utc: datetime,
        mine: str | None = None,
        written: Collection[Key] = (),
    ) -> tuple[Sequence[Rollout], Sequence[UnreadableRollout]]:
        """Updates the rollouts from the state store, and takes over those without a driver.

        Those of the model `mine` are taken over from other drivers, which notice it at their next write. Those that
        this server has `written` since the records were read stay as they are. `now` is the monotonic clock's time,
        and `utc` the state store's.

        Returns:
            The rollouts that this server drives from now on, and unreadable ones that were not known before.
        """
        known, foreign = self._unreadable, self._foreign
        self._foreign, self._unreadable = {}, {}
        present = {(record.model, record.attempt) for record in records}
        self._last_writes = {key: seen for key, seen in self._last_writes.items() if key in present}
        for key in [k for k, active in self._active.items() if k not in present | set(written) and active.saved]:
            self._drop(key)
        taken_up: list[Rollout] = []
        for record in records:
            key = (record.model, record.attempt)
            if key in written:
                if key in foreign:
                    self._foreign[key] = foreign.pop(key)
                continue
            lapsed = self._lapsed(key, record, now, utc)
            active = self._active.get(key)
            if active is not None and (active.number == record.number or not active.saved):
                continue
            if active is not None:
                self.lose(active.rollout)
                foreign[key] = self._foreign.pop(key)
            is_driver = record.driver == self.driver or mine == record.model or lapsed
            counting = foreign.get(key)
            if (
                not is_driver
                and counting is not None
                and counting.number != UNKNOWN
                and _only_counted(counting, record)
            ):
                self._foreign[key] = foreign.pop(key)
                counting.number, counting.unread = record.number, record
                continue
            rollout = read_record(record)
            if isinstance(rollout, UnreadableRollout):
                self._unreadable[key] = rollout
                continue
            counting = foreign.pop(key, None) or ActiveRollout.begin(rollout, record.number, now)
            counting.rollout, counting.number, counting.unread = rollout, record.number, None
            if is_driver:
                self._active[key] = counting
                taken_up.append(rollout)
            else:
                self._foreign[key] = counting
        for ended in foreign.values():
            ended.counters.detach()
        return taken_up, [one for key, one in self._unreadable.items() if key not in known]

    def _drop(self, key: Key) -> None:
        if (active := self._active.pop(key, None)) is not None:
            active.counters.detach()

    def _may_advance(self, key: Key) -> bool:
        known = self._active.get(key) or self._foreign.get(key)
        if known is not None and known.rollout.plan.on_newer == "beside":
            return True
        others = (*self._active, *self._foreign)
        return not any(model == key[0] and attempt < key[1] for model, attempt in others)

    def _lapsed(self, key: Key, record: RolloutRecord, now: float, utc: datetime) -> bool:
        """Returns whether no server drives a rollout any more.

        This is so if its lease has expired by the state store's clock or, since that clock may jump, if nothing was
        written for the duration of a lease by this server's own clock.
        """
        number, since = self._last_writes.get(key, (0, now))
        if number != record.number:
            since = now
        self._last_writes[key] = (record.number, since)
        return utc >= record.driven_until or now - since >= self._lease_seconds


def _only_counted(known: ActiveRollout, record: RolloutRecord) -> bool:
    """Returns whether only counts have changed since a rollout was read, which leaves its epoch the same.

    Reading a rollout with its evidence takes 10 to 30 ms, which is unnecessary on servers that do not drive it.
    """
    return record.document.get("epoch") == known.rollout.epoch and record.state == known.rollout.state
