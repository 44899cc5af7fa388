"""The policies in force, as an immutable snapshot that one assignment swaps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from semver import Version

from turnout.routing.policy import PolicyState
from turnout.routing.slots import Owners
from turnout.serving.inference import AnswerObserver


@dataclass(frozen=True, slots=True, eq=False)
class AppliedPolicy:
    """One model's policy in force.

    Attributes:
        epoch: Of the state.
        state: What that epoch holds.
        owners: Its slots, laid out for look-up.
        tally: Requests that each owner got, by its number, of those that every one of them might have got.
        observer: Is told of the baseline's answers; None where there is no shadow.
        changed_at, actor, reason, action: Where it came from.
    """

    epoch: int
    state: PolicyState
    owners: Owners
    tally: list[int]
    observer: AnswerObserver | None
    changed_at: datetime
    actor: str
    reason: str
    action: str


@dataclass(slots=True, eq=False)
class Policies:
    """Holds the policies in force. Written by `turnout.routing.traffic` alone, on the event loop.

    Attributes:
        current: By model; replaced whole, never changed.
        diverted: Models whose canaries get nothing although the policy says so: a rollback that cannot be recorded yet.
    """

    current: Mapping[str, AppliedPolicy] = field(default_factory=dict)
    diverted: frozenset[str] = frozenset()

    def divert(self, model: str) -> None:
        """Has the baseline answer everything from now on, until `undivert`."""
        if model not in self.diverted:
            self.diverted |= {model}
            self.current = dict(self.current)  # what was worked out goes

    def undivert(self, model: str) -> None:
        """Has the policy hold again."""
        if model in self.diverted:
            self.diverted -= {model}
            self.current = dict(self.current)

    def held(self, model: str) -> Mapping[Version, str]:
        """Returns the versions that the model's policy needs in memory, and as what it does."""
        applied = self.current.get(model)
        policy = applied.state.policy if applied else None
        if policy is None:
            return {}
        return {
            **{s.version: "a shadow" for s in policy.shadows},
            **{c.version: "a canary" for c in policy.canaries},
            policy.baseline: "the baseline",
        }
