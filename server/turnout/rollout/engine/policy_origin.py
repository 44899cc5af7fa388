"""Who else changes the traffic: who set the policy, and which rollouts conflict. Does no I/O."""

import json

from semver import Version

from turnout.errors import ChangeRefused
from turnout.rollout.machine.actors import is_rollout, rollout_actor
from turnout.rollout.machine.attempt import Rollout, RolloutState
from turnout.rollout.plan import Plan
from turnout.routing.active_policies import AppliedPolicy
from turnout.routing.policy import Policy


def policy_text(policy: Policy | None) -> str:
    """Returns a policy as text, for comparison."""
    return "" if policy is None else json.dumps(policy.to_json(), sort_keys=True)


def set_by_rollout(applied: AppliedPolicy | None) -> bool:
    """Tells whether a rollout, and nobody else, set the policy."""
    return applied is not None and is_rollout(applied.actor)


def set_by_others(rollout: Rollout, applied: AppliedPolicy | None) -> str:
    """Returns who else set the policy in force since the rollout did; "" if nobody did."""
    policy = applied.state.policy if applied is not None else None
    if applied is None or policy_text(policy) == rollout.routed or set_by_rollout(applied):
        return ""
    return f"epoch {applied.epoch}, by {applied.actor or 'nobody named'}: {applied.reason or applied.action}"


def newer_baseline(rollout: Rollout, applied: AppliedPolicy | None) -> Version | None:
    """Returns the baseline that another rollout brought since this one began; None if none did."""
    policy = applied.state.policy if applied is not None else None
    if applied is None or policy is None or policy.baseline in (rollout.previous, rollout.candidate):
        return None
    return policy.baseline if set_by_rollout(applied) and applied.actor != rollout_actor(rollout.attempt) else None


def stopped_by_traffic(rollout: Rollout) -> bool:
    """Tells whether somebody else's change of the traffic pauses a rollout."""
    return any(pause.kind == "traffic" for pause in rollout.pauses)


def refuse_other_baseline(
    before: Rollout, after: Rollout, applied: AppliedPolicy | None, baseline: Version | None
) -> None:
    """Refuses to let a rollout go on if somebody has made another version the baseline meanwhile.

    To go on would undo that silently, and compare with a version that has no traffic.

    Args:
        before: As it stands.
        after: As it would go on.
        applied: The policy in force.
        baseline: The version that answers the empty selector now.

    Raises:
        ChangeRefused: Another version is the baseline.
    """
    was_stopped = stopped_by_traffic(before) or set_by_others(before, applied)
    if not was_stopped or stopped_by_traffic(after) or after.state.final or after.state is RolloutState.ABORTING:
        return
    if baseline not in ((before.candidate, before.previous) if before.promoted else (before.previous,)):
        raise ChangeRefused(
            f"{baseline or 'nothing'} is the baseline of {before.model} by now, and this rollout compares with "
            f"{before.previous}: abort it and begin anew"
        )


def refuse_newer(running: Rollout, plan: Plan, candidate: Version) -> None:
    """Refuses to begin a rollout beside one that runs, unless its plan says what becomes of that.

    Raises:
        ChangeRefused: It is in the way.
    """
    if plan.on_newer == "refuse" or (plan.on_newer == "beside" and running.candidate == candidate):
        raise ChangeRefused(
            f"{running.candidate} is being rolled out (attempt {running.attempt}, {running.state}): "
            "abort it first, or say on_newer = 'queue', 'replace' or 'beside'"
        )
