"""The snapshot of a model on which changes are decided, and the outcome of a change. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from semver import Version

from turnout.registry.manifest.json_form import JsonForm
from turnout.registry.manifest.signature import Signature
from turnout.rollout.machine.actors import is_rollout
from turnout.rollout.machine.attempt import PROMOTED, Moved, Rollout, RolloutState
from turnout.rollout.machine.records import UnreadableRollout
from turnout.routing.default_answers import RoutingTable, answers_of
from turnout.routing.policy import Policy, PolicyState
from turnout.routing.rollback import default_version
from turnout.state.release_status import ReleaseStatus


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """The present state of one model.

    Attributes:
        statuses: Release statuses. A version that is not listed is a candidate.
        rollouts: Running rollouts, oldest first.
        unreadable: Running rollouts that this release cannot read.
        history: Versions that answered plain requests, in order, the present one last.
        trouble: Returns why a version cannot answer; "" if it can, or if that is not known here.
        actor: Who put the policy into force.
    """

    model: str
    signatures: Mapping[Version, Signature]
    statuses: Mapping[Version, ReleaseStatus]
    state: PolicyState = field(default_factory=PolicyState)
    rollouts: tuple[Rollout, ...] = ()
    unreadable: tuple[UnreadableRollout, ...] = ()
    history: tuple[Version, ...] = ()
    trouble: Callable[[Version], str] = lambda _: ""
    actor: str = ""

    @property
    def answering(self) -> Version | None:
        """The version that answers plain requests, apart from canaries; None if nothing is released."""
        return default_version(self.statuses) if self.state.policy is None else self.state.policy.baseline

    @property
    def answers(self) -> RoutingTable:
        """The versions that answer each selector."""
        return answers_with_rollouts(self.state.policy, self.statuses, self.rollouts)

    def status(self, version: Version) -> ReleaseStatus:
        """Returns a version's release status."""
        return self.statuses.get(version, ReleaseStatus.CANDIDATE)

    def after(self, outcome: "ChangeOutcome") -> "ModelSnapshot":
        """Returns the snapshot after `outcome` is recorded."""
        changed = {v: s for v, s in outcome.statuses.items() if self.status(v) is not ReleaseStatus.YANKED}
        ended = {rollout.attempt for rollout, _ in outcome.endings}
        discarded = {one.record.attempt for one in outcome.discards}
        after = replace(
            self,
            statuses={**self.statuses, **changed},
            state=self.state if outcome.state is None else outcome.state,
            rollouts=tuple(r for r in self.rollouts if r.attempt not in ended),
            unreadable=tuple(u for u in self.unreadable if u.record.attempt not in discarded),
        )
        now = after.answering
        if now is None or now in self.history[-1:]:
            return after
        return replace(after, history=(*self.history, now))


def answers_with_rollouts(
    policy: Policy | None, statuses: Mapping[Version, ReleaseStatus], rollouts: Iterable[Rollout]
) -> RoutingTable:
    """Returns the versions that answer each selector, with the canaries of rollouts marked."""
    by = {
        rollout.previous if rollout.state in PROMOTED else rollout.candidate: rollout.attempt
        for rollout in rollouts
        if rollout.state is not RolloutState.PENDING
    }
    return answers_of(policy, statuses, by)


@dataclass(frozen=True, slots=True)
class RollbackOrigin(JsonForm):
    """The state that an unrecorded rollback was based on.

    Attributes:
        answering: Version that answered plain requests; None if unknown.
    """

    epoch: int
    answering: Version | None = None

    ADDED = ("answering",)

    def overruled(self, epoch: int, actor: str, policy: Policy | None, answering: Version | None) -> bool:
        """Returns whether the rollback was overridden by a later change. Changes of the policy by rollouts do not
        count.

        `epoch` is the policy's, and `actor` put it into force; `answering` is the version that answers plain requests,
        apart from canaries.
        """
        if epoch != self.epoch:
            return not is_rollout(actor)
        return policy is None and None not in (answering, self.answering) and answering != self.answering


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    """The effect of a change on the model, decided but not recorded yet.

    Attributes:
        sentence: Description of the change for display.
        state: The new policy state; None if it does not change.
        action: One word for what is done to the policy.
        statuses: Versions to release, or to make candidates again.
        endings: Rollouts to end, in their final state, with entries for their history.
        discards: Unreadable rollouts to end.
    """

    sentence: str
    state: PolicyState | None = None
    action: str = ""
    statuses: Mapping[Version, ReleaseStatus] = field(default_factory=dict)
    endings: tuple[Moved, ...] = ()
    discards: tuple[UnreadableRollout, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether there is anything to record."""
        return bool(self.state is not None or self.statuses or self.endings or self.discards)


def running_text(snapshot: ModelSnapshot) -> str:
    """Describes the running rollouts."""
    parts = [f"attempt {r.attempt}, {r.candidate} over {r.previous}, {r.state}" for r in snapshot.rollouts]
    parts += [f"attempt {u.record.attempt}, which this release cannot read" for u in snapshot.unreadable]
    return "; ".join(parts)
