"""The evidence of each server alone, to find a candidate that is bad on one node only. Pure.

In the evidence of all servers together, a bad node's traffic is diluted by that of the others. So each server's part is
also judged alone. Alpha is divided: half for the whole, and the other half in equal parts for the servers, so that the
total is at most alpha (union bound). A single server is the whole, and has all of alpha.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from turnout.rollout.evidence import Evidence, Metric, Tick


@dataclass(frozen=True, slots=True)
class PerServer:
    """The evidence of each server's part.

    Attributes:
        taken: By server, its last tick that the evidence contains, so that none is counted twice.
        evidence: Evidence by server; empty as long as there was only one server.
    """

    taken: Mapping[str, int] = field(default_factory=dict)
    evidence: Mapping[str, Evidence] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The share of alpha for the evidence of all servers together."""
        return 0.5 if self.evidence else 1.0

    def with_tick(self, tick: Tick, fresh: Evidence) -> Self:
        """Returns the evidence with one more tick; that of a new server begins with `fresh`."""
        named = {stratum.server for stratum in tick.strata}
        if len(named | self.taken.keys() | self.evidence.keys()) < 2:
            return self
        evidence = dict(self.evidence)
        for stratum in tick.strata:
            known = evidence.get(stratum.server, fresh)
            evidence[stratum.server] = known.taken(Tick(tick.seconds, (stratum,), tick.largest_batch))
        return type(self)(self.taken, evidence)

    def worse(self, alpha: float) -> str | None:
        """Returns the server with the strongest evidence for a rollback; None if no server's evidence is sufficient.

        `alpha` is the probability of rolling back a candidate that is not worse, for all servers together.
        """
        least = len(self.evidence) / alpha if self.evidence else 0.0
        found = {name: one.combined for name, one in self.evidence.items() if one.combined >= least}
        return max(found, key=lambda name: found[name], default=None)

    def to_json(self) -> dict[str, Any]:
        """Returns the form in which the state store keeps it."""
        return {
            "taken": dict(self.taken),
            "evidence": {name: one.to_json() for name, one in self.evidence.items()},
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any], metrics: tuple[Metric, ...]) -> Self:
        """Parses the output of `to_json` for the same metrics."""
        evidence = {str(name): Evidence.from_json(one, metrics) for name, one in body["evidence"].items()}
        return cls({str(name): int(tick) for name, tick in body["taken"].items()}, evidence)

    def problem(self) -> str:
        """Returns what is wrong with values that were read; "" if nothing is."""
        return next((problem for one in self.evidence.values() if (problem := one.problem())), "")
