"""The snapshot of a model that changes are decided on, and the changes. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from semver import Version

from turnout.registry.manifest.signature import Signature
from turnout.rollout.machine.actors import is_rollout
from turnout.rollout.machine.attempt import PROMOTED, Rollout, RolloutHistoryEntry, RolloutState
from turnout.rollout.machine.records import UnreadableRollout
from turnout.routing.default_answers import RoutingTable, answers_of
from turnout.routing.policy import Policy, PolicyState
from turnout.routing.rollback import default_version
from turnout.state.release_status import ReleaseStatus


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """One model as it is.

    Attributes:
        signatures: Of the versions that exist.
        statuses: Release statuses; a version that is not named is a candidate.
        state: The policy in force.
        rollouts: Those that run, the oldest first.
        unreadable: Those that run and that this release cannot read.
        history: The versions that answered plain requests, in order, the present one last.
        trouble: Says why a version cannot answer; "" if it can, or nobody knows here.
        actor: Who put the policy in force.
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
        """The version that plain requests get, canaries aside; None if nothing is released."""
        return default_version(self.statuses) if self.state.policy is None else self.state.policy.baseline

    @property
    def answers(self) -> RoutingTable:
        """Who answers what."""
        return answers_with_rollouts(self.state.policy, self.statuses, self.rollouts)

    def status(self, version: Version) -> ReleaseStatus:
        """Returns a version's release status."""
        return self.statuses.get(version, ReleaseStatus.CANDIDATE)

    def after(self, outcome: "ChangeOutcome") -> "ModelSnapshot":
        """Returns the snapshot once `outcome` is recorded."""
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
    """Returns who answers what, with the canaries that rollouts send."""
    by = {
        rollout.previous if rollout.state in PROMOTED else rollout.candidate: rollout.attempt
        for rollout in rollouts
        if rollout.state is not RolloutState.PENDING
    }
    return answers_of(policy, statuses, by)


@dataclass(frozen=True, slots=True)
class RollbackOrigin:
    """Who answered a model's plain requests when a rollback was decided on that is not on record yet.

    Attributes:
        epoch: Of the policy.
        answering: The version that did; None: not known.
    """

    epoch: int
    answering: Version | None

    def overruled(self, epoch: int, actor: str, policy: Policy | None, answering: Version | None) -> bool:
        """Tells whether somebody has decided otherwise since; what rollouts did to the policy does not count.

        Args:
            epoch: Of the policy now.
            actor: Who put it in force.
            policy: The policy.
            answering: The version that answers plain requests, canaries aside.
        """
        if epoch != self.epoch:
            return not is_rollout(actor)
        return policy is None and None not in (answering, self.answering) and answering != self.answering


Ending = tuple[Rollout, tuple[RolloutHistoryEntry, ...]]
"""A rollout that ends, as it is then, and what is to be told of it."""


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    """What a change does to the model; decided, and not recorded yet.

    Attributes:
        sentence: What was done, for people.
        state: The policy from now on; None: it stays.
        action: What is done to the policy, in a word.
        statuses: Versions that are released from now on, or are candidates again.
        endings: Rollouts that end, as they are then, with what is to be told of it.
        discards: Rollouts that cannot be read and end.
    """

    sentence: str
    state: PolicyState | None = None
    action: str = ""
    statuses: Mapping[Version, ReleaseStatus] = field(default_factory=dict)
    endings: tuple[Ending, ...] = ()
    discards: tuple[UnreadableRollout, ...] = ()

    @property
    def changes(self) -> bool:
        """Tells whether there is anything to record."""
        return bool(self.state is not None or self.statuses or self.endings or self.discards)


def running_text(snapshot: ModelSnapshot) -> str:
    """Returns the rollouts that run, in words."""
    parts = [f"attempt {r.attempt}, {r.candidate} over {r.previous}, {r.state}" for r in snapshot.rollouts]
    parts += [f"attempt {u.record.attempt}, which this release cannot read" for u in snapshot.unreadable]
    return "; ".join(parts)
