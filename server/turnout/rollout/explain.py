"""Rollouts in words and numbers, for whoever has to justify a decision. Pure."""

from turnout.rollout.attempt import STEPPING, Rollout

_BLIND_REQUESTS = 20
_BLIND_RATIO = 20
"""An arm that has less than a twentieth of what its share lets expect is no measure of the other."""


def lacking(rollout: Rollout) -> list[str]:
    """Returns what holds it, and in a step what is still to be seen before the next one, or before promotion."""
    found = [rollout.held] if rollout.held else []
    if rollout.state not in STEPPING:
        return found
    plan, step = rollout.plan, rollout.plan.steps[rollout.step]
    if rollout.step_s < step.soak_s:
        found.append(f"the soak has {step.soak_s - rollout.step_s:.0f} s to go")
    if rollout.step_requests < plan.min_requests:
        found.append(f"the canary had {rollout.step_requests} of {plan.min_requests} requests")
    if blind := _blind(rollout):
        found.append(blind)
    last = rollout.step + 1 == len(plan.steps)
    if last and (unproven := rollout.evidence.unproven(plan.beta, plan.exposure_requests)):
        found.append(f"no evidence yet that {', '.join(unproven)} fit for promotion")
    return found


def _blind(rollout: Rollout) -> str:
    """Returns why this step's counts compare nothing with anything, "" where they do.

    Traffic with keys goes by slots and traffic without by turns: either may miss an arm while the other does not.
    """
    weight = rollout.canary_weight
    share = min(weight, (1 - weight) / 2) if rollout.plan.twin else 1 - weight
    if share <= 0:
        return ""
    baseline, keyed, keyed_baseline = rollout.step_arms
    arm = "the baseline's twin" if rollout.plan.twin else "the baseline"
    if rollout.step_requests and not baseline:
        return f"{arm} had no request to compare the canary's {rollout.step_requests} with"
    if keyed >= _BLIND_REQUESTS and keyed_baseline * _BLIND_RATIO * weight < keyed * share:
        return f"{arm} had {keyed_baseline} requests with a routing key, the canary {keyed}: too few to compare with"
    return ""


def verdict_text(rollout: Rollout) -> str:
    """Returns in words and numbers why the candidate is taken back."""
    evidence = rollout.evidence
    strongest = max(evidence.metrics, key=lambda m: m.weight * evidence.of(m.name))
    known = evidence.accumulators[strongest.name]
    share = f"{known.canary.bad} of {known.canary.requests}"
    if strongest.one_armed:
        seen = f"{share} copies disagreed, where {strongest.null:.2%} may"
    else:
        other = f"{known.baseline.bad} of {known.baseline.requests}"
        seen = f"{_NOUNS.get(strongest.name, strongest.name)}: {share}, the baseline {other}"
    shown = f"E = {evidence.combined:.3g}, threshold {1 / rollout.alpha:.0f}"
    return f"{rollout.candidate} is worse than {rollout.previous} ({seen}; {shown})"


_NOUNS = {
    "errors": "errors",
    "p90": "slower than the baseline's p90",
    "p95": "slower than the baseline's p95",
    "p99": "slower than the baseline's p99",
    "stalled": "slower than ten times the baseline's p99",
    "slo": "slower than the objective",
}


def counts_text(rollout: Rollout) -> str:
    """Returns the counts of both arms, metric by metric."""
    parts = [
        f"{m.name} {a.canary.bad} of {a.canary.requests} against {a.baseline.bad} of {a.baseline.requests}"
        for m in rollout.evidence.metrics
        if (a := rollout.evidence.accumulators[m.name]) and not m.one_armed
    ]
    return "; ".join(parts)
