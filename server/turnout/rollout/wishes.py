"""What a rollout wishes to be routed: it follows from its state alone. Pure.

Putting it in force twice is harmless, and a restart needs nothing but the state.
"""

from collections.abc import Sequence
from dataclasses import replace

from turnout.rollout.attempt import Rollout, RolloutState
from turnout.routing.policy import UNITS, Canary, Policy, Shadow

_S = RolloutState


def wished(rollout: Rollout, policy: Policy | None) -> Policy | None:
    """Returns the policy that `rollout` wishes for, given the one in force; None where it wishes for nothing else.

    Canaries and shadows that are not its own stay. What comes out for its own wish comes out again for the result.
    """
    after = _wished(rollout, policy)
    if after is None:
        return None
    if rollout.plan.twin:
        return replace(after, twin=_twin(after.canaries))
    return replace(after, twin=policy.twin if policy is not None and after.canaries else 0)


def _twin(canaries: Sequence[Canary]) -> int:
    """Returns the share of the baseline's twin: the largest canary's, at most half of what the baseline has left."""
    left = UNITS - sum(c.weight for c in canaries)
    return min(max((c.weight for c in canaries), default=0), left // 2)


def _wished(rollout: Rollout, policy: Policy | None) -> Policy | None:
    ours = (rollout.candidate, rollout.previous)
    canaries = tuple(c for c in policy.canaries if c.version not in ours) if policy else ()
    shadows = tuple(s for s in policy.shadows if s.version != rollout.candidate) if policy else ()
    match rollout.state:
        case _S.PENDING | _S.VALIDATING:
            return None
        case _S.SHADOWING:
            assert rollout.plan.shadow is not None
            rate = max(round(rollout.plan.shadow.rate * UNITS), 1)
            return Policy(rollout.previous, canaries, (*shadows, Shadow(rollout.candidate, rate)))
        case _S.RAMPING | _S.SOAKING | _S.DECIDING:
            weight = round(rollout.canary_weight * UNITS)
            return Policy(rollout.previous, (*canaries, Canary(rollout.candidate, weight)), shadows)
        case _S.PROMOTING | _S.WATCHING:
            held = round(rollout.plan.holdback * UNITS)
            if held and not rollout.finishing:
                canaries = (*canaries, Canary(rollout.previous, held))
            return Policy(rollout.candidate, canaries, shadows)
        case _S.ABORTING if policy is not None and policy.baseline not in ours:
            return Policy(policy.baseline, canaries, shadows)  # somebody's choice, and not this rollout's to undo
        case _S.ABORTING:
            return Policy(rollout.previous, canaries, shadows)
        case _:
            return None
