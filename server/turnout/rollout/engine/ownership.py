"""Which rollouts run, and which of them this server drives: by leases in the state store. Does no I/O."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from semver import Version

from turnout.errors import ChangeRefused, NotFoundError, Unsupported
from turnout.rollout.clock import Instant
from turnout.rollout.engine.active_rollout import UNKNOWN, ActiveRollout
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.records import UnreadableRollout, read_record
from turnout.routing.policy_holds import rollout_holds
from turnout.serving.versions.hold import Hold
from turnout.state.rollouts import RolloutRecord

Key = tuple[str, int]
"""Model and attempt."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What changed when the state store was followed.

    Attributes:
        taken_up: Rollouts that this server drives from now on.
        unreadable: Rollouts that this release newly found that it cannot read.
    """

    taken_up: Sequence[Rollout] = ()
    unreadable: Sequence[UnreadableRollout] = ()


class Ownership:
    """The rollouts that have not ended. Used on the event loop only.

    Attributes:
        driver: This server's name in leases; another at every start.
    """

    def __init__(self, lease_seconds: float, server: Callable[[], str]) -> None:
        """Knows of no rollout before `reconcile`.

        Args:
            lease_seconds: For which nobody else may drive what one drives.
            server: Returns this server's name among those that count.
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
        """The rollouts that this server drives, in the order of model and attempt."""
        return [active for _, active in sorted(self._active.items())]

    @property
    def unreadable(self) -> Sequence[UnreadableRollout]:
        """The rollouts that this release cannot read; this server drives none of them."""
        return list(self._unreadable.values())

    @property
    def running(self) -> Sequence[Rollout]:
        """The rollouts, whoever drives them, in the order of model and attempt."""
        every = (*(a.rollout for a in self._active.values()), *(f.rollout for f in self._foreign.values()))
        return sorted((r for r in every if not r.state.final), key=lambda r: (r.model, r.attempt))

    def holds(self, model: str) -> Mapping[Version, Hold]:
        """Returns the versions that rollouts need in memory, and as what."""
        found: dict[Version, Hold] = {}
        for rollout in self.running:
            if rollout.model == model:
                found |= rollout_holds(model, rollout.attempt, rollout.candidate, rollout.previous)
        return found

    def of(self, model: str) -> Sequence[ActiveRollout]:
        """Returns the rollouts of a model that this server drives."""
        return [active for (name, _), active in sorted(self._active.items()) if name == model]

    def of_model(self, model: str) -> Sequence[Rollout]:
        """Returns the rollouts of a model that run, whoever drives them."""
        return [rollout for rollout in self.running if rollout.model == model]

    def find(self, model: str, attempt: int) -> ActiveRollout | None:
        """Returns a rollout; None if this server does not drive it."""
        return self._active.get((model, attempt))

    @property
    def foreign(self) -> Sequence[ActiveRollout]:
        """The rollouts that other servers drive, in the order of model and attempt; they are counted for here too."""
        return [active for _, active in sorted(self._foreign.items())]

    def take(self, model: str, attempt: int = 0) -> None:
        """Takes over rollouts that another server drives; that server finds out at its next write.

        Args:
            model: Their model.
            attempt: Which; 0 for each.
        """
        for key in [key for key in self._foreign if key[0] == model and attempt in (0, key[1])]:
            taken = self._active[key] = self._foreign.pop(key)
            if taken.unread is not None and isinstance(rollout := read_record(taken.unread), Rollout):
                taken.rollout, taken.unread = rollout, None

    def add(self, active: ActiveRollout) -> None:
        """Drives a rollout from now on."""
        self._active[active.rollout.model, active.rollout.attempt] = active

    def lose(self, rollout: Rollout) -> None:
        """Stops driving a rollout that another server drives now; counts made here are sent to that server."""
        key = rollout.model, rollout.attempt
        if (active := self._active.pop(key, None)) is not None:
            active.lost(self._server())
            self._foreign[key] = active

    def drop(self, rollout: Rollout) -> None:
        """Stops driving a rollout, and counting for it."""
        self._drop((rollout.model, rollout.attempt))

    def named(self, model: str, attempt: int) -> ActiveRollout:
        """Returns a rollout that is driven here.

        Args:
            model: Its model.
            attempt: Which; 0 for the one that goes on.

        Raises:
            NotFoundError: No such rollout runs.
            ChangeRefused: Several go on, and none was named.
            Unsupported: It cannot be read; the message names the way out.
        """
        keys = [key for key in sorted(self._active) if key[0] == model and attempt in (0, key[1])]
        going = [key for key in keys if self._may_advance(key)] if not attempt else keys
        for key, unreadable in self._unreadable.items():
            if not going and key[0] == model and attempt in (0, key[1]):
                raise Unsupported(unreadable.sentence)
        if not going:
            raise NotFoundError(f"no rollout {f'{attempt} ' if attempt else ''}of {model} runs")
        if len(going) > 1:
            several = ", ".join(f"{number} ({self._active[model, number].rollout.candidate})" for _, number in going)
            raise ChangeRefused(f"several rollouts of {model} run: say which attempt, {several}")
        return self._active[going[0]]

    def may_advance(self, rollout: Rollout) -> bool:
        """Tells whether a rollout runs and may go on: one that is queued waits for those that came before it."""
        key = rollout.model, rollout.attempt
        return key in self._active and self._may_advance(key)

    @property
    def counted(self) -> Sequence[ActiveRollout]:
        """The rollouts that requests are counted for here: those that go on, whoever drives them."""
        every = {**self._active, **self._foreign}
        return [active for key, active in sorted(every.items()) if self._may_advance(key)]

    def rivals(self, model: str) -> int:
        """Returns how many rollouts of a model go on."""
        return sum(key[0] == model and self._may_advance(key) for key in (*self._active, *self._foreign))

    def reconcile(self, records: Sequence[RolloutRecord], now: Instant, *, mine: str | None = None) -> Reconciled:
        """Notes what the state store holds; takes over rollouts that nobody drives.

        Args:
            records: The rollouts that have not ended.
            now: The time, by the state store's clock.
            mine: Take up this model's whoever drives them; who did finds out at its next write.
        """
        known, foreign = self._unreadable, self._foreign
        self._foreign, self._unreadable = {}, {}
        present = {(record.model, record.attempt) for record in records}
        self._last_writes = {key: seen for key, seen in self._last_writes.items() if key in present}
        for key in [k for k, active in self._active.items() if k not in present and active.saved]:
            self._drop(key)
        taken_up: list[Rollout] = []
        for record in records:
            key = (record.model, record.attempt)
            lapsed = self._lapsed(key, record, now)
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
            counting = foreign.pop(key, None) or ActiveRollout.begin(rollout, record.number, now.monotonic)
            counting.rollout, counting.number, counting.unread = rollout, record.number, None
            if is_driver:
                self._active[key] = counting
                taken_up.append(rollout)
            else:
                self._foreign[key] = counting
        for ended in foreign.values():
            ended.counters.detach()
        return Reconciled(taken_up, [one for key, one in self._unreadable.items() if key not in known])

    def _drop(self, key: Key) -> None:
        if (active := self._active.pop(key, None)) is not None:
            active.counters.detach()

    def _may_advance(self, key: Key) -> bool:
        known = self._active.get(key) or self._foreign.get(key)
        if known is not None and known.rollout.plan.on_newer == "beside":
            return True
        others = (*self._active, *self._foreign)
        return not any(model == key[0] and attempt < key[1] for model, attempt in others)

    def _lapsed(self, key: Key, record: RolloutRecord, now: Instant) -> bool:
        """Tells whether no server drives a rollout any more.

        Its lease is over by the state store's clock; or, since that may jump, nothing was written for as long as a
        lease lasts by this server's own.
        """
        number, since = self._last_writes.get(key, (0, now.monotonic))
        if number != record.number:
            since = now.monotonic
        self._last_writes[key] = (record.number, since)
        return now.utc >= record.driven_until or now.monotonic - since >= self._lease_seconds


def _only_counted(known: ActiveRollout, record: RolloutRecord) -> bool:
    """Tells whether nothing happened to a rollout since it was read except counts: its epoch is the same.

    To read one with its evidence takes 10 to 30 ms, and who does not drive it needs none of that.
    """
    return record.document.get("epoch") == known.rollout.epoch and record.state == known.rollout.state
