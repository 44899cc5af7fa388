"""Which share of a model's unpinned traffic each version has, desired and in force."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from semver import Version

from turnout.errors import TurnoutError
from turnout.routing.active_policies import AppliedPolicy, Policies
from turnout.routing.policy import TWIN, UNITS, Policy
from turnout.routing.slots import SLOTS
from turnout.serving.data_plane.inference import Router, ServingRole
from turnout.serving.versions.catalog import Catalog, ModelEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.telemetry.metrics.server import ServerRecorder
from turnout.telemetry.ratios import Ratio


@dataclass(frozen=True, slots=True)
class Share:
    """One version's part in one role.

    Attributes:
        version: The version, as text.
        desired: As the policy asks, 0 to 1; of a shadow, its rate.
        applied: As in force: a canary that is not ready has none, and the baseline has its share.
        decisions: Requests of this epoch that it answered, of those that every version of the policy might have.
        share: The same as a share of those; None before the first, and of shadows.
        total: Those that every version of the policy might have answered.
        deviation: Standard deviations between `decisions` and what `applied` lets expect, were requests independent.
    """

    version: str
    role: ServingRole
    desired: float
    applied: float
    decisions: int = 0
    share: float | None = None
    total: int = 0
    deviation: float = 0.0


def shares(known: ModelEntry, applied: AppliedPolicy, policy: Policy, diverted: Version | None = None) -> list[Share]:
    """Returns the part of each version of a policy: the baseline, the canaries, the shadows.

    Args:
        known: The model.
        applied: What is in force.
        policy: The policy in it.
        diverted: The version that answers in place of the baseline and the canaries; None if the policy holds.
    """
    ready = {str(v) for v, entry in known.versions.items() if entry.state is LifecycleState.READY}
    table = applied.state.table
    decisions = dict(zip(applied.owners.names, applied.tally, strict=True))
    in_force = {
        str(c.version): table.slots_of(str(c.version)) / SLOTS if str(c.version) in ready else 0.0
        for c in policy.canaries
    }
    baseline = str(policy.baseline)
    left = 1.0 - sum(in_force.values()) if baseline in ready else 0.0
    total = sum(applied.tally)
    desired = (UNITS - sum(c.weight for c in policy.canaries)) / UNITS
    found = [_share(baseline, ServingRole.BASELINE, desired, left, decisions[""] + decisions.get(TWIN, 0), total)]
    for canary in policy.canaries:
        name = str(canary.version)
        weight = canary.weight / UNITS
        found.append(_share(name, ServingRole.CANARY, weight, in_force[name], decisions.get(name, 0), total))
    for shadow in policy.shadows:
        name, rate = str(shadow.version), shadow.rate / UNITS
        found.append(Share(name, ServingRole.SHADOW, rate, rate if name in ready and baseline in ready else 0.0))
    if diverted is None or str(diverted) not in ready:
        return found
    found = [replace(share, applied=0.0) for share in found]
    if baseline == str(diverted):
        return [replace(found[0], applied=1.0), *found[1:]]
    return [*found, Share(str(diverted), ServingRole.BASELINE, 0.0, 1.0)]


def record_weights(catalog: Catalog, policies: Policies, router: Router) -> None:
    """Tells the recorders of the versions in service their part, for the metrics.

    Without a policy, what should answer is the highest released version, and what does is the highest that is ready.
    """
    for model in catalog.snapshot.models.values():
        applied = policies.current.get(model.name)
        if applied is None or applied.state.policy is None:
            parts: Mapping[str, list[Share]] = _without_policy(model, router)
        else:
            parts = {}
            for share in shares(model, applied, applied.state.policy, policies.diverted.get(model.name)):
                parts = {**parts, share.version: [*parts.get(share.version, []), share]}
        for entry in model.versions.values():
            if entry.handle is not None:
                own = parts.get(entry.version_text, [])
                recorder = entry.handle.recorder
                recorder.traffic_weight = {
                    (str(s.role), kind): value
                    for s in own
                    for kind, value in (("desired", s.desired), ("applied", s.applied))
                }
                recorder.traffic_share = {str(s.role): Ratio(s.decisions, s.total) for s in own if s.total}
                for share in own:
                    if share.role is not ServingRole.SHADOW:
                        recorder.role(str(share.role))  # shown at zero from now on, so that its first request counts


def record_epochs(catalog: Catalog, policies: Policies, recorder: ServerRecorder) -> None:
    """Notes each model's epoch, by which replicas can be compared with each other; called before a scrape."""
    applied = policies.current
    recorder.epochs = {name: applied[name].epoch if name in applied else 0 for name in catalog.snapshot.models}


def _share(version: str, role: ServingRole, desired: float, applied: float, decisions: int, total: int) -> Share:
    expected = applied * total
    spread = (expected * (1.0 - applied)) ** 0.5
    deviation = (decisions - expected) / spread if spread else 0.0
    return Share(version, role, desired, applied, decisions, decisions / total if total else None, total, deviation)


def _without_policy(model: ModelEntry, router: Router) -> dict[str, list[Share]]:
    desired = applied = ""
    try:
        desired = router.describe(model.name, "").version_text
        applied = router.route(model.name, "").entry.version_text
    except TurnoutError:  # nothing is released, or nothing that is answers now
        pass
    return {
        version: [Share(version, ServingRole.BASELINE, float(version == desired), float(version == applied))]
        for version in {desired, applied} - {""}
    }
