"""The policies in force, as an immutable snapshot that a single assignment replaces."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from semver import Version

from turnout.routing.policy import Policy, PolicyState
from turnout.routing.policy_holds import diversion_hold, policy_holds
from turnout.routing.slots import Owners
from turnout.serving.data_plane.inference import AnswerObserver
from turnout.serving.versions.hold import Hold
from turnout.serving.versions.load_policy import Fallbacks


@dataclass(frozen=True, slots=True, eq=False)
class AppliedPolicy:
    """One model's policy in force.

    Attributes:
        owners: The slots of the policy's table, laid out for look-up.
        tally: Requests that each owner got, by its number. Only requests that every owner could have got are counted.
        observer: Receives the baseline's answers; None if there is no shadow.
        changed_at, actor, reason, action: When, by whom, why and by which action the epoch was made.
        stand_in: Version that answers until the baseline is ready on this server; None if it was ready at once.
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
    stand_in: Version | None = None

    @property
    def policy(self) -> Policy | None:
        """The policy; None if the highest released version answers."""
        return self.state.policy


NEVER_SET = AppliedPolicy(
    0, PolicyState(), Owners.without_claims(), [0], None, datetime.fromtimestamp(0, UTC), actor="", reason="", action=""
)
"""The policy of a model whose traffic was never changed."""


@dataclass(slots=True, eq=False)
class Policies:
    """The policies in force. Only `turnout.routing.traffic` writes it, on the event loop.

    Attributes:
        current: Policies in force by model. The mapping is replaced as a whole, never changed.
        diverted: By model, the version that answers in place of the policy's baseline and canaries, or of the highest
            release if there is no policy: the target of a rollback that cannot be recorded yet.
        withdrawn: By diverted model, the versions that count as not released.
        fallbacks: By model, the versions that may have to answer next.
        meters: By model, the slots of two lanes of the baseline that the false alarm meter compares.
    """

    current: Mapping[str, AppliedPolicy] = field(default_factory=dict)
    diverted: Mapping[str, Version] = field(default_factory=dict)
    withdrawn: Mapping[str, frozenset[Version]] = field(default_factory=dict)
    fallbacks: Mapping[str, Fallbacks] = field(default_factory=dict)
    meters: Mapping[str, Owners] = field(default_factory=dict)

    def of(self, model: str) -> AppliedPolicy:
        """Returns the model's policy in force; `NEVER_SET` if there is none."""
        return self.current.get(model, NEVER_SET)

    def meter(self, model: str, owners: Owners) -> None:
        """Sends some slots of the model's baseline through two lanes, to be compared."""
        self.meters = {**self.meters, model: owners}
        self.current = dict(self.current)

    def divert(self, model: str, to: Version, withdrawn: Collection[Version] = ()) -> None:
        """Makes `to` answer in place of the policy, and `withdrawn` count as not released, until `undivert`."""
        gone = frozenset(withdrawn)
        if (self.diverted.get(model), self.withdrawn.get(model)) != (to, gone):
            self.diverted = {**self.diverted, model: to}
            self.withdrawn = {**self.withdrawn, model: gone}
            self.current = dict(self.current)  # discards the router's cached results

    def undivert(self, model: str) -> None:
        """Ends a diversion, so that the policy decides again."""
        if model in self.diverted:
            self.diverted = {name: to for name, to in self.diverted.items() if name != model}
            self.withdrawn = {name: gone for name, gone in self.withdrawn.items() if name != model}
            self.current = dict(self.current)

    def pinned_versions(self, model: str) -> Mapping[Version, Hold]:
        """Returns the versions that the model's policy needs in memory, and why."""
        applied, diverted = self.of(model), self.diverted.get(model)
        pinned_versions = policy_holds(model, applied.state, applied.epoch)
        return pinned_versions if diverted is None else {**pinned_versions, diverted: diversion_hold(model)}
