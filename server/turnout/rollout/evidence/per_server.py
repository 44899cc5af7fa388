"""What each server saw of a rollout: a candidate that is bad on one node alone is found there. Pure.

The evidence of all servers together holds a bad node's traffic against everybody's. So each server's part is judged by
itself too. The chance to be wrong is divided: half of alpha for the whole, the other half in equal parts for the
servers, so that it is alpha at most for all of it (union bound). One server alone is the whole, and has all of alpha.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from turnout.rollout.evidence import Evidence, Metric, Tick


@dataclass(frozen=True, slots=True)
class PerServer:
    """What is known of each server's part.

    Attributes:
        taken: By server, the last of its ticks that the evidence holds: none is taken twice.
        evidence: By server; empty while one server is all there was.
    """

    taken: Mapping[str, int] = field(default_factory=dict)
    evidence: Mapping[str, Evidence] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The part of alpha that is left for the evidence of all servers together."""
        return 0.5 if self.evidence else 1.0

    def with_tick(self, tick: Tick, fresh: Evidence) -> Self:
        """Returns what is known with one more tick.

        Args:
            tick: What was counted; a stratum each server.
            fresh: The evidence before anything was seen.
        """
        named = {stratum.server for stratum in tick.strata}
        if len(named | self.taken.keys() | self.evidence.keys()) < 2:
            return self
        evidence = dict(self.evidence)
        for stratum in tick.strata:
            known = evidence.get(stratum.server, fresh)
            evidence[stratum.server] = known.taken(Tick(tick.seconds, (stratum,), tick.largest_batch))
        return type(self)(self.taken, evidence)

    def with_taken(self, taken: Mapping[str, int]) -> Self:
        """Returns what is known once ticks of these servers were taken, up to these numbers."""
        return type(self)({**self.taken, **taken}, self.evidence)

    def worse(self, alpha: float) -> str | None:
        """Returns the server on which the candidate is worst, of those whose evidence rolls it back; None if none does.

        Args:
            alpha: Chance that a candidate that is not worse is rolled back, for all servers together.
        """
        least = len(self.evidence) / alpha if self.evidence else 0.0
        found = {name: one.combined for name, one in self.evidence.items() if one.combined >= least}
        return max(found, key=lambda name: found[name], default=None)

    def to_json(self) -> dict[str, Any]:
        """Returns the form that the state store holds."""
        return {
            "taken": dict(self.taken),
            "evidence": {name: one.to_json() for name, one in self.evidence.items()},
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any], metrics: tuple[Metric, ...]) -> Self:
        """Reads what `to_json` wrote, for the same metrics."""
        evidence = {str(name): Evidence.from_json(one, metrics) for name, one in body["evidence"].items()}
        return cls({str(name): int(tick) for name, tick in body["taken"].items()}, evidence)

    def problem(self) -> str:
        """Returns what is wrong with values that were read; "" if nothing is."""
        return next((problem for one in self.evidence.values() if (problem := one.problem())), "")
