"""Computes each version's share of a model's unpinned traffic, desired and in force."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from semver import Version

from turnout.errors import TurnoutError
from turnout.routing.active_policies import AppliedPolicy, Policies
from turnout.routing.policy import TWIN, UNITS, Policy
from turnout.routing.slots import SLOTS
from turnout.serving.data_plane.inference import Router, ServingRole
from turnout.serving.versions.catalog import Catalog, ModelEntry
from turnout.telemetry.metrics.server import ServerRecorder
from turnout.telemetry.ratios import Ratio


@dataclass(frozen=True, slots=True)
class Share:
    """One version's share in one role.

    Attributes:
        version: The version as text.
        desired: Share in the policy, 0 to 1; for a shadow, its rate.
        applied: Share in force. It is 0 for a canary that is not ready, whose share goes to the baseline.
        decisions: Requests of this epoch that the version answered, counting only requests that every version of the
            policy could have answered.
        share: `decisions` divided by `total`; None before the first request, and for shadows.
        total: Requests of this epoch that every version of the policy could have answered.
        deviation: Difference between `decisions` and its expected value under `applied`, in standard deviations for
            independent requests.
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
    """Returns the share of each version in a policy: the baseline, the canaries, the shadows.

    `diverted` answers in place of the baseline and the canaries; None if the policy is in effect.
    """
    ready = {str(v) for v, entry in known.versions.items() if entry.ready}
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
    """Updates the recorders of the loaded versions with their shares, for the metrics.

    Without a policy, the highest released version should answer, and the highest one that is ready does.
    """
    for model in catalog.snapshot.models.values():
        applied = policies.of(model.name)
        if applied.policy is None:
            parts: Mapping[str, list[Share]] = _without_policy(model, router)
        else:
            parts = defaultdict(list)
            for share in shares(model, applied, applied.policy, policies.diverted.get(model.name)):
                parts[share.version].append(share)
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
                        recorder.role(str(share.role))  # shown at zero from now on, so that the first request counts


def record_epochs(catalog: Catalog, policies: Policies, recorder: ServerRecorder) -> None:
    """Records each model's epoch, by which replicas can be compared. Called before a scrape."""
    recorder.epochs = {name: policies.of(name).epoch for name in catalog.snapshot.models}


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
    except TurnoutError:  # no version is released, or none of those answers now
        pass
    return {
        version: [Share(version, ServingRole.BASELINE, float(version == desired), float(version == applied))]
        for version in {desired, applied} - {""}
    }
