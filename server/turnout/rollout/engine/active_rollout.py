"""The state of a running rollout in memory, between two ticks."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from turnout.rollout.counters import ClosedTick, Counters
from turnout.rollout.engine.exchange.server_ticks import CollectedTicks, ServerTick, ShadowTick, gather
from turnout.rollout.evidence import Count
from turnout.rollout.machine.attempt import Rollout, RolloutHistoryEntry
from turnout.rollout.thresholds import rules_of
from turnout.state.rollouts import RolloutRecord

_MOST_PARTS = 1000

UNKNOWN = -1
"""Write number of a rollout whose present record this server has not read."""


@dataclass(slots=True, eq=False)
class ActiveRollout:
    """A rollout that this server drives, or counts for.

    Attributes:
        number: Number of the state store's last write.
        observed_at, counted_at: When it was last decided on, and last counted for, by the monotonic clock.
        numbers: Numbers of the ticks that are over but not closed, by the state store's clock, oldest first.
        last_number: The last of these numbers.
        parts: Counts that were not used yet: this server's and, if it drives the rollout, those of others.
        kept: This server's counts that it used itself and that may not be recorded yet. If another server has taken
            over the rollout, they are sent to that server.
        mailed: Servers whose counts arrived through the state store since counts were last used.
        delivered: By server, number of the last tick whose counts are removed from the state store by the next write.
        sample: Number of the last shadow sample that was used.
        shadow: This server's copies that are in no part yet.
        recent: The latest latencies of the baseline on this server, in buckets.
        elsewhere: The latest part of each other server, if this server drives the rollout.
        unread: The record, if it is newer than `rollout` but differs only in another server's counts.
        refused: Why the last change of the traffic was refused.
        saved: Whether the state store has its present state.
        late: Whether the last write took longer than the tick or command waited for it.
        overtaken: Whether a write found that another server has written the rollout.
        entries, ticks: Entries and counts that still have to be recorded.
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
    shadow: ShadowTick = field(default_factory=ShadowTick)
    recent: Mapping[str, int] = field(default_factory=dict)
    elsewhere: dict[str, ServerTick] = field(default_factory=dict)
    given_up_at: int | None = None
    unread: RolloutRecord | None = None
    refused: str = ""
    saved: bool = True
    late: bool = False
    overtaken: bool = False
    entries: list[RolloutHistoryEntry] = field(default_factory=list)
    ticks: list[Mapping[str, object]] = field(default_factory=list)

    @classmethod
    def begin(cls, rollout: Rollout, number: int, now: float) -> Self:
        """Creates the state of a rollout that is driven from now on, by the monotonic clock.

        `number` is that of the state store's last write; 0 before the first.
        """
        return cls(rollout, number, Counters(rules_of(rollout), history=rollout.history), now, now)

    def receive(self, part: ServerTick) -> None:
        """Adds counts that a server sent through the state store, where they stay until a write records their use."""
        self.parts.setdefault((part.number, part.stratum.server), part)
        self.mailed.add(part.stratum.server)

    def begin_tick(self, number: int, server: str) -> None:
        """Records that a tick is over. Its number, by the store's clock, is increased if an earlier tick has it."""
        self.last_number = max(number, self.last_number + 1, self.rollout.per_server.taken.get(server, -1) + 1)
        self.numbers.append(self.last_number)

    def elapsed(self, now: float, longest: float) -> float:
        """Returns the seconds since the last tick, at most `longest`, and begins the next tick."""
        seconds = min(now - self.observed_at, longest)
        self.observed_at = now
        return seconds

    def counted(self, closed: Sequence[ClosedTick], server: str) -> None:
        """Adds this server's counts of closed ticks, oldest first."""
        slots = tuple(replace(record, server=server) for record in self.counters.slot_records)
        for one in closed:
            (stratum,) = one.tick.strata
            number = self.numbers.popleft()
            latency = {"canary": _texts(one.canary_latency), "baseline": _texts(one.baseline_latency)}
            self.parts[number, server] = ServerTick(
                number, one.tick.seconds, one.tick.largest_batch, replace(stratum, server=server), slots, latency,
                self.shadow, self.recent,
            )  # fmt: skip
            self.shadow = replace(self.shadow, copies=Count())
        for key in sorted(self.parts)[: max(len(self.parts) - _MOST_PARTS, 0)]:
            del self.parts[key]  # not used because the store is unavailable; they would be too late anyway

    def gather(self, own: str, oldest: int) -> CollectedTicks:
        """Takes the counts that were not used yet. Ticks of other servers below the number `oldest` are too late."""
        collected = gather(self.parts.values(), self.rollout.per_server.taken, own, oldest)
        self.kept |= {key: part for key, part in self.parts.items() if key[1] == own}
        for key in sorted(self.kept)[: max(len(self.kept) - _MOST_PARTS, 0)]:
            del self.kept[key]
        self.parts.clear()
        latest = self.elsewhere | {name: part for name, part in collected.latest.items() if name != own}
        self.elsewhere = {name: part for name, part in latest.items() if part.number >= oldest}
        taken = {**self.rollout.per_server.taken, **collected.taken}
        self.delivered |= {name: taken[name] for name in self.mailed if name in taken}
        self.mailed.clear()
        return collected

    def recorded(self, rollout: Rollout, number: int) -> None:
        """Records that a state was written. The rollout may have changed since, if the write took long."""
        self.saved, self.number = self.rollout is rollout, number
        if self.saved:
            self.delivered.clear()
        taken = rollout.per_server.taken
        self.kept = {key: part for key, part in self.kept.items() if key[0] > taken.get(key[1], -1)}

    def lost(self, own: str) -> None:
        """Discards decisions made here, because another server drives the rollout. Counts are kept."""
        self.parts = self.kept | {key: part for key, part in self.parts.items() if key[1] == own}
        self.kept, self.elsewhere = {}, {}
        self.entries, self.ticks = [], []
        self.mailed.clear()
        self.delivered.clear()
        self.saved, self.number, self.refused = True, UNKNOWN, ""
        self.late = self.overtaken = False


def tick_records(rollout: Rollout, collected: CollectedTicks, shadow: Count) -> list[Mapping[str, object]]:
    """Returns records of the counts that were used, from which the evidence can be recomputed.

    A rollout that has ended uses no more counts, even if its end takes many ticks to be recorded.
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
