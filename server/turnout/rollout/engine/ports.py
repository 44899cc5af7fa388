"""What the engine needs of the rest of the server: what serves models, which it observes
and changes, and the store that it records in.

The engine imports neither the catalog nor the state store's engine; `turnout.app` hands both in.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from semver import Version

from turnout.registry.manifest.signature import Signature
from turnout.rollout.changes.model_snapshot import ModelSnapshot
from turnout.rollout.counters import ClosedTick
from turnout.rollout.engine.active_rollout import ActiveRollout
from turnout.rollout.engine.server_ticks import CollectedTicks
from turnout.rollout.machine.analysis_verdict import Analysis
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.machine import Facts
from turnout.rollout.plan import Plan
from turnout.routing.active_policies import AppliedPolicy
from turnout.routing.default_answers import RoutingTable
from turnout.routing.policy import Policy
from turnout.routing.traffic import ChangeOrigin
from turnout.state.release_status import ReleaseStatus
from turnout.state.rollouts import RolloutRecord, RolloutWrite
from turnout.state.servers import CountRecord, ServersSnapshot

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrafficChange:
    """What a rollout has put in force, in one transaction.

    Attributes:
        policy: The whole policy.
        change: Who, why, and the epoch that it follows.
        attempt, number: The rollout, and its write that this follows from; it must not have been written since.
        statuses: Versions that are released with it, or are candidates again.
    """

    policy: Policy
    change: ChangeOrigin
    attempt: int
    number: int
    statuses: Mapping[Version, ReleaseStatus] = field(default_factory=dict)


class LiveState(Protocol):
    """What is served and routed on this server. Used on the event loop only."""

    def count(self, active: ActiveRollout, seconds: float, now: float) -> Sequence[ClosedTick]:
        """Ends a rollout's tick on this server, begins the next, and returns those that are closed by now.

        Args:
            active: The rollout, whoever drives it.
            seconds: That this tick stands for.
            now: By the monotonic clock, seconds.
        """
        ...

    def observe(self, active: ActiveRollout, seconds: float, collected: CollectedTicks, rivals: int) -> Facts:
        """Returns what is so now.

        Args:
            active: The rollout.
            seconds: That this tick stands for.
            collected: What all servers counted.
            rivals: Rollouts of its model that go on, itself among them.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Returns what this server tells others of itself, as JSON values: versions in service, epochs, revision."""
        ...

    async def apply(self, model: str, change: TrafficChange) -> None:
        """Puts a policy in force, and statuses with it.

        Raises:
            Conflict: Another change came first.
            ChangeRefused, InvalidRequest, VersionNotFound: It cannot be in force now.
            UnavailableError: The state store does not answer.
        """
        ...

    async def redraw_twin(self, model: str, change: ChangeOrigin) -> None:
        """Gives the twin slots that carry about as much keyed traffic as the canary's, if there are any.

        Raises: As `apply`.
        """
        ...

    async def follow(self, *, traffic: bool = True) -> None:
        """Puts in force what was recorded about releases, and about policies unless told otherwise.

        Raises:
            UnavailableError: The state store does not answer.
        """
        ...

    def load(self) -> None:
        """Has versions loaded that rollouts newly need."""
        ...

    def divert(self, model: str, to: Version, withdrawn: Collection[Version]) -> None:
        """Makes `to` answer in place of the policy, and `withdrawn` count as not released; in memory only."""
        ...

    def undivert(self, model: str) -> None:
        """Lets the policy decide again."""
        ...

    def in_force(self, model: str) -> tuple[AppliedPolicy | None, Policy | None]:
        """Returns what is in force for a model, and its policy."""
        ...

    def baseline(self, model: str, without: Collection[Version] = ()) -> Version | None:
        """Returns the version that answers the empty selector now; None if no version does.

        Args:
            model: The model.
            without: Versions that count as not released.
        """
        ...

    def is_ready(self, model: str, version: Version) -> bool:
        """Tells whether a version can answer."""
        ...

    def is_released(self, model: str, version: Version) -> bool:
        """Tells whether a version is released."""
        ...

    def load_failure(self, model: str, version: Version) -> str:
        """Returns why a version could not be loaded, as a sentence; "" if it may still be."""
        ...

    def signatures(self, model: str) -> Mapping[Version, Signature]:
        """Returns the signatures of a model's versions.

        Raises:
            ModelNotFound: There is no such model.
        """
        ...

    def refusals(self, model: str, candidate: Version) -> list[str]:
        """Returns why a candidate cannot be rolled out, in sentences, whatever else runs.

        Raises:
            ModelNotFound, NotFoundError: There is no such model, or version.
        """
        ...

    def model_snapshot(self, model: str, running: Sequence[Rollout]) -> ModelSnapshot:
        """Returns a model as far as this server knows, without asking the state store.

        Raises:
            ModelNotFound: There is no such model.
        """
        ...

    def answers(self, model: str, running: Sequence[Rollout]) -> RoutingTable:
        """Returns who answers what of a model now, with the canaries that the rollouts `running` send.

        Raises:
            ModelNotFound: There is no such model.
        """
        ...


class ExternalChecks(Protocol):
    """What rollouts ask outside of the server. Nothing here waits; used on the event loop only."""

    def check(self, plan: Plan) -> None:
        """Refuses a plan that names a probe that is not configured.

        Raises:
            InvalidRequest: It does.
        """
        ...

    def take(self, rollout: Rollout) -> Analysis:
        """Returns what was answered about a rollout since this was called last."""
        ...

    def follow(self, rollouts: Sequence[tuple[Rollout, bool]]) -> None:
        """Begins the measurements that are due, and ends those of rollouts that are no longer driven here.

        Args:
            rollouts: Those that this server drives, each with whether it is on record as it stands.
        """
        ...


class RolloutStore(Protocol):
    """Where rollouts are recorded and servers meet. Every method raises UnavailableError without an answer.

    Attributes:
        server: This server's name; another server never has it at the same time.
    """

    @property
    def server(self) -> str:
        """This server's name."""
        ...

    async def running(self, driver: str) -> tuple[Sequence[RolloutRecord], ServersSnapshot]:
        """Returns the rollouts that have not ended, and what servers said.

        Args:
            driver: Who asks, by its name in leases: it gets what was counted for the rollouts that it drives.
        """
        ...

    async def report(self, document: Mapping[str, Any], counts: Sequence[CountRecord], alive_seconds: float) -> bool:
        """Tells the others that this server is alive, and what it counted.

        Args:
            document: What it says of itself.
            counts: What it counted.
            alive_seconds: For how long a server counts as alive after it said so.

        Returns:
            False if another server has this one's name, and nothing was written.
        """
        ...

    async def leave(self) -> None:
        """Tells the others that this server stops."""
        ...

    async def aborting(self) -> Sequence[RolloutRecord]:
        """Returns the rollouts that are being rolled back."""
        ...

    async def of(self, model: str) -> Sequence[RolloutRecord]:
        """Returns the latest rollouts of a model, the newest first."""
        ...

    async def write(self, model: str, wanted: RolloutWrite, *, actor: str, reason: str) -> RolloutRecord:
        """Writes a rollout, its ticks and events, in one transaction.

        Raises:
            Conflict: Another server wrote it meanwhile.
            ChangeRefused: A version that it needs is yanked.
        """
        ...

    async def write_counts(self, several: Sequence[tuple[str, RolloutWrite]]) -> Sequence[RolloutRecord | None]:
        """Writes rollouts of these models to which nothing happened except counts, in one transaction.

        Returns:
            Each as it stands; None for one that another server wrote meanwhile, and that stays as it is.
        """
        ...

    async def withdraw(
        self, model: str, version: Version, *, actor: str, reason: str, rollout: tuple[int, int]
    ) -> None:
        """Takes a release back.

        Args:
            model: The version's model.
            version: Which.
            actor: Who asks.
            reason: Why.
            rollout: Attempt and number of the rollout that asks; it must not have been written since.

        Raises:
            Conflict: Another server wrote the rollout meanwhile.
        """
        ...

    async def run(self, operation: Callable[[], T]) -> T:
        """Runs a blocking change of the store in one of its threads."""
        ...
