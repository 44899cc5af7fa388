"""Determines who set the policy in force, and which rollouts conflict with it. No I/O."""

import json
from dataclasses import replace

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


def set_by_others(rollout: Rollout, applied: AppliedPolicy) -> str:
    """Returns who else has set the policy in force since the rollout did; "" if no one has."""
    if not applied.epoch or policy_text(applied.policy) == rollout.routed or is_rollout(applied.actor):
        return ""
    return f"epoch {applied.epoch}, by {applied.actor or 'an unnamed caller'}: {applied.reason or applied.action}"


def accept_policy(rollout: Rollout, applied: AppliedPolicy) -> Rollout:
    """Returns the rollout with the policy in force accepted as its own."""
    return replace(rollout, policy_epoch=applied.epoch, routed=policy_text(applied.policy))


def newer_baseline(rollout: Rollout, applied: AppliedPolicy) -> Version | None:
    """Returns the baseline that another rollout has set since this one began; None if there is none."""
    if applied.policy is None or applied.policy.baseline in (rollout.previous, rollout.candidate):
        return None
    by_another = is_rollout(applied.actor) and applied.actor != rollout_actor(rollout.attempt)
    return applied.policy.baseline if by_another else None


def stopped_by_traffic(rollout: Rollout) -> bool:
    """Returns whether a rollout is paused because someone else changed the traffic."""
    return any(pause.kind == "traffic" for pause in rollout.pauses)


def refuse_other_baseline(before: Rollout, after: Rollout, applied: AppliedPolicy, baseline: Version | None) -> None:
    """Raises if a rollout would continue, in the state `after`, although another version has been made the baseline.

    Continuing would silently undo that, and would compare with a version that has no traffic.

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
    """Raises if a rollout cannot start because another is running, and its plan does not say what to do about that.

    Raises:
        ChangeRefused: The running rollout prevents it.
    """
    if plan.on_newer == "refuse" or (plan.on_newer == "beside" and running.candidate == candidate):
        raise ChangeRefused(
            f"{running.candidate} is being rolled out (attempt {running.attempt}, {running.state}): "
            "abort it first, or say on_newer = 'queue', 'replace' or 'beside'"
        )
