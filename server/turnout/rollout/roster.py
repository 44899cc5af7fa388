"""Which rollouts run, and which of them this server drives: by leases in the state store."""

import uuid
from collections.abc import Callable, Mapping, Sequence

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import ChangeRefused, NotFound, Unsupported
from turnout.rollout.attempt import Rollout
from turnout.rollout.clock import Clock
from turnout.rollout.driven import Driven, Observer
from turnout.rollout.records import UnreadableRollout, read_record
from turnout.routing.holding import rollout_holds
from turnout.serving.hold import Hold
from turnout.state.rollouts import RolloutRecord
from turnout.state.store import StateStore

_MOST_RUNNING = 10_000

Key = tuple[str, int]
"""Model and attempt."""


class Roster:
    """The rollouts that have not ended. Used on the event loop only.

    Attributes:
        driver: This server's name in leases; another at every start.
        driven: Those that this server drives.
        foreign: Those that others do.
        unreadable: Those that this release cannot read; nobody drives them here.
    """

    def __init__(
        self, store: StateStore, observer: Observer, wake: Callable[[], None], log: FilteringBoundLogger, clock: Clock
    ) -> None:
        """Prepares; nothing is known before `take_in`.

        Args:
            store: Keeps the rollouts.
            observer: Makes a rollout one that is driven.
            wake: Has versions loaded that `held` newly names.
            log: Where it is told what was taken up.
            clock: Tells when a lease is over.
        """
        self._store = store
        self._observer = observer
        self._wake = wake
        self._log = log
        self._clock = clock
        self.driver = uuid.uuid4().hex
        self.driven: dict[Key, Driven] = {}
        self.foreign: dict[Key, Rollout] = {}
        self.unreadable: dict[Key, UnreadableRollout] = {}
        self._seen: dict[Key, tuple[int, float]] = {}

    @property
    def known(self) -> Sequence[Rollout]:
        """The rollouts, whoever drives them, in the order of model and attempt."""
        every = (*(d.rollout for d in self.driven.values()), *self.foreign.values())
        return sorted((r for r in every if not r.state.final), key=lambda r: (r.model, r.attempt))

    def held(self, model: str) -> Mapping[Version, Hold]:
        """Returns the versions that rollouts need in memory, and as what."""
        found: dict[Version, Hold] = {}
        for rollout in self.known:
            if rollout.model == model:
                found |= rollout_holds(model, rollout.attempt, rollout.candidate, rollout.previous)
        return found

    def drop(self, key: Key) -> None:
        """Drives a rollout no more, and counts nothing for it."""
        if (driven := self.driven.pop(key, None)) is not None:
            driven.counters.detach()

    def named(self, model: str, attempt: int) -> Driven:
        """Returns a rollout that is driven here.

        Args:
            model: Its model.
            attempt: Which; 0 for the one that goes on.

        Raises:
            NotFound: There is none.
            ChangeRefused: Several go on, and none was named.
            Unsupported: It cannot be read; the message names the way out.
        """
        keys = [key for key in sorted(self.driven) if key[0] == model and attempt in (0, key[1])]
        going = [key for key in keys if self.goes(key)] if not attempt else keys
        for key, unreadable in self.unreadable.items():
            if not going and key[0] == model and attempt in (0, key[1]):
                raise Unsupported(unreadable.sentence)
        if not going:
            raise NotFound(f"no rollout {f'{attempt} ' if attempt else ''}of {model} runs")
        if len(going) > 1:
            several = ", ".join(f"{number} ({self.driven[model, number].rollout.candidate})" for _, number in going)
            raise ChangeRefused(f"several rollouts of {model} run: say which attempt, {several}")
        return self.driven[going[0]]

    def goes(self, key: Key) -> bool:
        """Tells whether a rollout may go on: one that is queued waits for those that came before it."""
        driven = self.driven.get(key)
        rollout = driven.rollout if driven is not None else self.foreign.get(key)
        if rollout is not None and rollout.plan.on_newer == "beside":
            return True
        others = (*self.driven, *self.foreign)
        return not any(model == key[0] and attempt < key[1] for model, attempt in others)

    def rivals(self, model: str) -> int:
        """Returns how many rollouts of a model go on."""
        return sum(key[0] == model and self.goes(key) for key in (*self.driven, *self.foreign))

    async def take_in(self, *, mine: str | None = None) -> None:
        """Notes what the state store holds; takes up what nobody drives.

        Args:
            mine: Take up this model's whoever drives them; who did finds out at its next write.

        Raises:
            Unavailable: The state store does not answer.
        """
        records = await self._store.in_thread(self._store.rollouts, None, running=True, limit=_MOST_RUNNING)
        self.foreign, told, self.unreadable = {}, self.unreadable, {}
        present = {(record.model, record.attempt) for record in records}
        self._seen = {key: seen for key, seen in self._seen.items() if key in present}
        for key in [k for k in self.driven if k not in present and self.driven[k].saved]:
            self.drop(key)
        for record in records:
            key = (record.model, record.attempt)
            lapsed = self._lapsed(key, record)
            driven = self.driven.get(key)
            if driven is not None and (driven.number == record.number or not driven.saved):
                continue
            rollout = read_record(record)
            if driven is not None:
                self.drop(key)
            if isinstance(rollout, UnreadableRollout):
                self.unreadable[key] = rollout
                if key not in told:
                    self._log.error("a rollout cannot be read", model=record.model, reason=rollout.sentence)
                continue
            if record.driver == self.driver or mine == record.model or lapsed:
                self.driven[key] = self._observer.driven(rollout, record.number)
                self._log.info("rollout taken up", model=record.model, attempt=record.attempt, state=record.state)
            else:
                self.foreign[key] = rollout
        self._wake()

    def _lapsed(self, key: Key, record: RolloutRecord) -> bool:
        """Tells whether nobody drives a rollout any more.

        Its lease is over by the clock on the wall; or, since such clocks jump and differ, nothing was written for as
        long as a lease lasts by this server's own.
        """
        now = self._clock.monotonic()
        number, since = self._seen.get(key, (0, now))
        if number != record.number:
            since = now
        self._seen[key] = (record.number, since)
        lease = (record.driven_until - record.changed).total_seconds()
        return self._clock.now() >= record.driven_until or now - since >= lease
