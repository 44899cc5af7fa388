"""A rollout that this server drives, between two ticks."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from turnout.rollout.counters import ClosedTick, Counters
from turnout.rollout.engine.server_ticks import CollectedTicks, ServerTick, gather
from turnout.rollout.evidence import Count
from turnout.rollout.machine.attempt import Rollout, RolloutHistoryEntry
from turnout.rollout.thresholds import rules_of
from turnout.state.rollouts import RolloutRecord

_MOST_PARTS = 1000

UNKNOWN = -1
"""Number of a write that this server has not read."""


@dataclass(slots=True, eq=False)
class ActiveRollout:
    """A rollout that this server drives.

    Attributes:
        rollout: As it stands.
        number: Of the state store's last write.
        counters: Its counts.
        observed_at, counted_at: When it was last decided on, and counted for, by the monotonic clock.
        sample: Number of the last shadow sample that was taken.
        numbers: Of the ticks that are over and not closed, by the state store's clock, the oldest first.
        last_number: Of the last of them.
        parts: What servers counted and this one has not taken: its own, and where it drives the rollout the others'.
        kept: What this server counted and took itself, and what is not known to be on record: if another one drives the
            rollout meanwhile, it is told that.
        mailed: Servers whose parts came by the state store since the last were taken.
        delivered: By server, number of the last tick that goes from the state store with the next write.
        given_up_at: The rollout's epoch when it was seen that its shadow takes no more copies; None while it does.
        unread: The record, if it is newer than `rollout`: nothing happened but that another server counted.
        refused: Why the last change of the traffic was refused.
        saved: The state store has it as it stands.
        entries, ticks: What is still to be recorded.
    """

    rollout: Rollout
    number: int
    counters: Counters
    observed_at: float
    counted_at: float
    numbers: deque[int] = field(default_factory=deque)
    last_number: int = -1
    parts: dict[tuple[int, str], ServerTick] = field(default_factory=dict)
    kept: dict[tuple[int, str], ServerTick] = field(default_factory=dict)
    mailed: set[str] = field(default_factory=set)
    delivered: dict[str, int] = field(default_factory=dict)
    sample: int = 0
    given_up_at: int | None = None
    unread: RolloutRecord | None = None
    refused: str = ""
    saved: bool = True
    entries: list[RolloutHistoryEntry] = field(default_factory=list)
    ticks: list[Mapping[str, object]] = field(default_factory=list)

    @classmethod
    def begin(cls, rollout: Rollout, number: int, now: float) -> Self:
        """Returns a rollout that is driven from now on.

        Args:
            rollout: As it stands.
            number: Of the state store's last write; 0 before the first.
            now: By the monotonic clock, seconds.
        """
        return cls(rollout, number, Counters(rules_of(rollout), history=rollout.history), now, now)

    def receive(self, part: ServerTick) -> None:
        """Notes what a server told by the state store, where it stays until a write says that it was taken."""
        self.parts.setdefault((part.number, part.stratum.server), part)
        self.mailed.add(part.stratum.server)

    def begin_tick(self, number: int, server: str) -> None:
        """Notes that a tick is over.

        Args:
            number: By the state store's clock; a tick never has the number of an earlier one, whatever clocks do.
            server: This server's name.
        """
        self.last_number = max(number, self.last_number + 1, self.rollout.per_server.taken.get(server, -1) + 1)
        self.numbers.append(self.last_number)

    def elapsed(self, now: float, longest: float) -> float:
        """Returns the seconds since the last tick, `longest` at most, and begins the next tick."""
        seconds = min(now - self.observed_at, longest)
        self.observed_at = now
        return seconds

    def counted(self, closed: Sequence[ClosedTick], server: str) -> None:
        """Notes what this server counted in ticks that are closed.

        Args:
            closed: The ticks, the oldest first.
            server: This server's name.
        """
        slots = tuple(replace(record, server=server) for record in self.counters.slot_records)
        for one in closed:
            (stratum,) = one.tick.strata
            number = self.numbers.popleft()
            latency = {"canary": _texts(one.canary_latency), "baseline": _texts(one.baseline_latency)}
            self.parts[number, server] = ServerTick(
                number, one.tick.seconds, one.tick.largest_batch, replace(stratum, server=server), slots, latency
            )
        for key in sorted(self.parts)[: max(len(self.parts) - _MOST_PARTS, 0)]:
            del self.parts[key]  # nobody takes them: the store is away, and they would come too late

    def gather(self, own: str, oldest: int) -> CollectedTicks:
        """Takes what servers have counted.

        Args:
            own: This server's name.
            oldest: Ticks of other servers below this number come too late.
        """
        collected = gather(self.parts.values(), self.rollout.per_server.taken, own, oldest)
        self.kept |= {key: part for key, part in self.parts.items() if key[1] == own}
        for key in sorted(self.kept)[: max(len(self.kept) - _MOST_PARTS, 0)]:
            del self.kept[key]
        self.parts.clear()
        taken = {**self.rollout.per_server.taken, **collected.taken}
        self.delivered |= {name: taken[name] for name in self.mailed if name in taken}
        self.mailed.clear()
        return collected

    def recorded(self, rollout: Rollout, number: int) -> None:
        """Notes that it was recorded in that state; it may have moved on since, if the write took long.

        Args:
            rollout: As it was recorded.
            number: Of that write.
        """
        self.saved, self.number = self.rollout is rollout, number
        if self.saved:
            self.delivered.clear()
        taken = rollout.per_server.taken
        self.kept = {key: part for key, part in self.kept.items() if key[0] > taken.get(key[1], -1)}

    def lost(self, own: str) -> None:
        """Notes that another server drives it: decisions made here no longer hold, counts do.

        Args:
            own: This server's name.
        """
        self.parts = self.kept | {key: part for key, part in self.parts.items() if key[1] == own}
        self.kept = {}
        self.entries, self.ticks = [], []
        self.mailed.clear()
        self.delivered.clear()
        self.saved, self.number, self.refused = True, UNKNOWN, ""


def tick_records(rollout: Rollout, collected: CollectedTicks, shadow: Count) -> list[Mapping[str, object]]:
    """Returns what is recorded of what was taken, so that the evidence can be computed again from it.

    One that has ended takes nothing more, and may wait for the store for many a tick until that is recorded.
    """
    if rollout.state.final:
        return []
    where = {"state": str(rollout.state), "weight": rollout.canary_weight}
    found: list[Mapping[str, object]] = [
        {**tick.to_json(), **where, "latency": latency}
        for tick, latency in zip(collected.ticks, collected.latency, strict=True)
    ]
    if shadow.requests:
        found.append({"shadow": [shadow.requests, shadow.bad], **where})
    return found


def _texts(buckets: Mapping[int, int]) -> dict[str, int]:
    return {str(bucket): count for bucket, count in sorted(buckets.items())}
