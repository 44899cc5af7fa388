"""A rollout that this server drives, between two ticks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from turnout.rollout.attempt import Entry, Rollout
from turnout.rollout.counters import Counted, Counters
from turnout.rollout.evidence import Count
from turnout.rollout.thresholds import rules_of


@dataclass(slots=True, eq=False)
class ActiveRollout:
    """A rollout that this server drives.

    Attributes:
        rollout: As it stands.
        number: Of the state store's last write.
        counters: Its counts.
        observed_at: When the last tick was, by the monotonic clock.
        sample: Number of the last shadow sample that was taken.
        refused: Why the last change of the traffic was refused.
        saved: The state store has it as it stands.
        entries, ticks: What is still to be recorded.
    """

    rollout: Rollout
    number: int
    counters: Counters
    observed_at: float
    sample: int = 0
    refused: str = ""
    saved: bool = True
    entries: list[Entry] = field(default_factory=list)
    ticks: list[Mapping[str, object]] = field(default_factory=list)

    @classmethod
    def begin(cls, rollout: Rollout, number: int, now: float) -> Self:
        """Returns a rollout that is driven from now on.

        Args:
            rollout: As it stands.
            number: Of the state store's last write; 0 before the first.
            now: By the monotonic clock, seconds.
        """
        return cls(rollout, number, Counters(rules_of(rollout), history=rollout.history), now)

    def elapsed(self, now: float, longest: float) -> float:
        """Returns the seconds since the last tick, `longest` at most, and begins the next tick."""
        seconds = min(now - self.observed_at, longest)
        self.observed_at = now
        return seconds

    def note(self, counted: Sequence[Counted], shadow: Count) -> None:
        """Has what a tick counted recorded with the next write, so that the evidence can be computed again from it."""
        where = {"state": str(self.rollout.state), "weight": self.rollout.canary_weight}
        for one in counted:
            latency = {"canary": _texts(one.canary_latency), "baseline": _texts(one.baseline_latency)}
            self.ticks.append({**one.tick.to_json(), **where, "latency": latency})
        if shadow.requests:
            self.ticks.append({"shadow": [shadow.requests, shadow.bad], **where})


def _texts(buckets: Mapping[int, int]) -> dict[str, int]:
    return {str(bucket): count for bucket, count in sorted(buckets.items())}
