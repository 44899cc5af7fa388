"""The port of the engine to what is served and routed. The engine does not import the catalog."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from semver import Version

from turnout.registry.manifest.signature import Signature
from turnout.rollout.changes.model_snapshot import ModelSnapshot
from turnout.rollout.counters import ClosedTick
from turnout.rollout.engine.active_rollout import ActiveRollout
from turnout.rollout.engine.exchange.server_ticks import CollectedTicks
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.machine import Facts
from turnout.routing.active_policies import AppliedPolicy
from turnout.routing.default_answers import RoutingTable
from turnout.routing.policy import Policy
from turnout.routing.traffic import ChangeOrigin
from turnout.state.release_status import ReleaseStatus


@dataclass(frozen=True, slots=True)
class TrafficChange:
    """A change of the traffic by a rollout, in one transaction.

    Attributes:
        change: Who makes it, why, and the epoch that it follows.
        attempt, number: The rollout, and the number of its write that the change is based on, which must be the last.
        statuses: Versions to release, or to make candidates again, in the same transaction.
    """

    policy: Policy
    change: ChangeOrigin
    attempt: int
    number: int
    statuses: Mapping[Version, ReleaseStatus] = field(default_factory=dict)


class LiveState(Protocol):
    """What this server serves and routes. Used only on the event loop.

    `signatures`, `refusals`, `model_snapshot` and `answers` raise ModelNotFound if the model does not exist.
    """

    def count(self, active: ActiveRollout, seconds: float, now: float) -> Sequence[ClosedTick]:
        """Ends a rollout's tick on this server, begins the next, and returns the ticks that are closed by now.

        The rollout may be driven elsewhere. The tick had `seconds` active seconds; `now` is the monotonic clock's time.
        """
        ...

    def observe(self, active: ActiveRollout, seconds: float, collected: CollectedTicks, rivals: int) -> Facts:
        """Returns the present facts about a rollout.

        `seconds` are the active seconds of this tick, `collected` the counts of all servers, and `rivals` the number of
        rollouts of the model that are not queued, including this one.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Returns this server's report about itself, as JSON values: versions that are ready, epochs, diversions."""
        ...

    async def apply(self, model: str, change: TrafficChange) -> None:
        """Puts a policy into force, with its release statuses.

        Raises:
            Conflict: Another change came first.
            ChangeRefused, InvalidRequest, VersionNotFound: It cannot be put into force now.
            UnavailableError: The state store does not respond.
        """
        ...

    async def redraw_twin(self, model: str, change: ChangeOrigin) -> None:
        """Gives the twin slots that carry about as much keyed traffic as the canary's, if such slots exist.

        Raises the errors of `apply`.
        """
        ...

    async def follow(self, *, traffic: bool = True) -> None:
        """Applies recorded releases and, if `traffic`, recorded policies.

        Raises:
            UnavailableError: The state store does not respond.
        """
        ...

    def load(self) -> None:
        """Starts to load the versions that rollouts newly need."""
        ...

    def divert(self, model: str, to: Version, withdrawn: Collection[Version]) -> None:
        """Makes `to` answer in place of the policy, and `withdrawn` count as not released; only in memory."""
        ...

    def undivert(self, model: str) -> None:
        """Ends a diversion, so that the policy decides again."""
        ...

    def in_force(self, model: str) -> tuple[AppliedPolicy | None, Policy | None]:
        """Returns the applied policy of a model, and the policy in it; None each if there is none."""
        ...

    def baseline(self, model: str, without: Collection[Version] = ()) -> Version | None:
        """Returns the version that answers the empty selector now, if those in `without` are not released."""
        ...

    def is_ready(self, model: str, version: Version) -> bool:
        """Returns whether a version can answer."""
        ...

    def is_released(self, model: str, version: Version) -> bool:
        """Returns whether a version is released."""
        ...

    def load_failure(self, model: str, version: Version) -> str:
        """Returns why a version could not be loaded, as a sentence; "" if it has not failed."""
        ...

    def signatures(self, model: str) -> Mapping[Version, Signature]:
        """Returns the signatures of a model's versions."""
        ...

    async def refusals(self, model: str, candidate: Version) -> list[str]:
        """Returns the reasons why a candidate cannot be rolled out, as sentences, regardless of other rollouts.

        If there are any, the repository and the state store are read first: the candidate may just have been published,
        or a version released, by another process.

        Raises:
            NotFoundError: The version does not exist.
        """
        ...

    def model_snapshot(self, model: str, running: Sequence[Rollout]) -> ModelSnapshot:
        """Returns the state of a model as far as this server knows, without reading the state store."""
        ...

    def answers(self, model: str, running: Sequence[Rollout]) -> RoutingTable:
        """Returns the versions that answer each selector of a model now, with the canaries of rollouts in `running`."""
        ...
