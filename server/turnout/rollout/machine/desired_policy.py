"""The policy that a rollout requires, which depends only on its state. Pure.

Applying it twice is harmless, and after a restart nothing but the state is needed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from semver import Version

from turnout.rollout.machine.attempt import Rollout, RolloutState
from turnout.routing.policy import UNITS, Canary, Policy, Shadow

_S = RolloutState


def desired_policy(rollout: Rollout, policy: Policy | None) -> Policy | None:
    """Returns the policy that `rollout` requires, given the one in force; None if it requires no change.

    Canaries and shadows of others are kept. The function is idempotent.
    """
    after = _desired(rollout, policy)
    if after is None:
        return None
    if rollout.plan.twin:
        return replace(after, twin=_twin(after.canaries))
    kept = policy.twin if policy is not None and after.canaries else 0
    return replace(after, twin=max(min(kept, _left(after.canaries)), 0))


def is_settled(rollout: Rollout, policy: Policy | None) -> bool:
    """Returns whether the policy in force is the one that `rollout` requires."""
    desired = desired_policy(rollout, policy)
    return desired is None or desired == policy


def _left(canaries: Sequence[Canary]) -> int:
    return UNITS - sum(c.weight for c in canaries)


def _twin(canaries: Sequence[Canary]) -> int:
    """Returns the share of the baseline's twin: the largest canary's, at most half of what the baseline has left."""
    return max(min(max((c.weight for c in canaries), default=0), _left(canaries) // 2), 0)


def _desired(rollout: Rollout, policy: Policy | None) -> Policy | None:
    candidate, previous = rollout.candidate, rollout.previous
    canaries = policy.canaries if policy is not None else ()
    shadows = policy.shadows if policy is not None else ()
    match rollout.state:
        case _S.PENDING | _S.VALIDATING:
            return None
        case _S.SHADOWING:
            assert rollout.plan.shadow is not None
            rate = max(round(rollout.plan.shadow.rate * UNITS), 1)
            shadows = _with(_without(shadows, previous), Shadow(candidate, rate))
            return Policy(previous, _without(canaries, candidate, previous), shadows)
        case _S.RAMPING | _S.SOAKING | _S.DECIDING:
            weight = round(rollout.canary_weight * UNITS)
            canaries = _with(_without(canaries, previous), Canary(candidate, weight))
            return Policy(previous, canaries, _without(shadows, candidate, previous))
        case _S.PROMOTING | _S.WATCHING:
            canaries = _without(canaries, candidate)
            held = round(rollout.holdback * UNITS)
            canaries = _with(canaries, Canary(previous, held)) if held else _without(canaries, previous)
            return Policy(candidate, canaries, _without(shadows, candidate))
        case _S.ABORTING if policy is not None and policy.baseline not in (candidate, previous):
            # An operator's choice, which this rollout must not undo; a canary of `previous` is also an operator's.
            return Policy(policy.baseline, _without(canaries, candidate), _without(shadows, candidate))
        case _S.ABORTING if policy is not None:
            return Policy(previous, _without(canaries, candidate, previous), _without(shadows, candidate, previous))
        case _:  # aborting without a policy: nothing was in force yet, or the policy was removed meanwhile
            return None


_Part = TypeVar("_Part", bound=Canary | Shadow)


def _without(parts: Sequence[_Part], *versions: Version) -> tuple[_Part, ...]:
    return tuple(part for part in parts if part.version not in versions)


def _with(parts: Sequence[_Part], own: _Part) -> tuple[_Part, ...]:
    """Returns the parts with `own` in place of its version, or last, so that two rollouts do not reorder for ever."""
    placed = tuple(own if part.version == own.version else part for part in parts)
    return placed if own in placed else (*placed, own)
