"""Explains the state and the verdict of a rollout in words and numbers. Pure."""

import math

from turnout.rollout.evidence import LEAST_UNITS, Evidence
from turnout.rollout.machine.analysis_verdict import unconfirmed, unmeasured
from turnout.rollout.machine.attempt import STEPPING, Rollout
from turnout.text.quantities import number_text
from turnout.text.shares import share_text

_KEYED_REQUESTS, _KEYED_RATIO = 20, 20
"""An arm with less than a twentieth of the traffic that its share would give it is too small to compare with."""

_SILENT_SECONDS, _SILENT_GAPS = 60.0, 10.0


def lacking(rollout: Rollout) -> list[str]:
    """Returns what holds the rollout, and the conditions that are missing for the next step or promotion."""
    outside = unmeasured(rollout) if rollout.state in STEPPING else []
    return [*unseen(rollout), *outside, *unconfirmed(rollout)]


def unseen(rollout: Rollout) -> list[str]:
    """Returns what holds the rollout and, in a step, the conditions on traffic that are missing for the next one."""
    found = [rollout.held] if rollout.held else []
    if rollout.state not in STEPPING:
        return found
    plan, step = rollout.plan, rollout.plan.steps[rollout.step]
    if rollout.step_s < step.soak_s:
        found.append(f"the soak has {step.soak_s - rollout.step_s:.0f} s to go")
    if rollout.step_requests < plan.min_requests:
        found.append(f"the canary had {rollout.step_requests} of {plan.min_requests} requests")
    found += _silent(rollout)
    found += _unmatched(rollout)
    last = rollout.step + 1 == len(plan.steps)
    if last and (unproven := rollout.evidence.unproven(plan.beta, plan.exposure_requests, alone=plan.from_broken)):
        found.append(f"no evidence of fitness for promotion yet in {', '.join(unproven)}")
        if few := few_units_text(rollout.evidence):
            found.append(few)
    return found


def few_units_text(evidence: Evidence) -> str:
    """Returns why keyed traffic gives no evidence; "" if it does, or there is no keyed traffic with bad events."""
    units = evidence.effective_units
    if units is None or units >= LEAST_UNITS:
        return ""
    return f"{math.floor(units)} effective tenants carry this canary; at least {LEAST_UNITS} are needed"


def _unmatched(rollout: Rollout) -> list[str]:
    """Returns a sentence if the canary's keyed traffic is compared with hardly any.

    Traffic with keys is assigned by slot and traffic without by turn, so one of them may miss an arm while the other
    does not.
    """
    weight = rollout.canary_weight
    share = min(weight, (1 - weight) / 2) if rollout.plan.twin else 1 - weight
    canary, baseline = rollout.step_keyed
    if rollout.plan.from_broken or canary < _KEYED_REQUESTS or baseline * _KEYED_RATIO * weight >= canary * share:
        return []
    other = f"the part of {rollout.previous} that it is compared with {baseline}"
    return [f"the canary had {canary} requests with a routing key, and {other}: too few to compare"]


def _silent(rollout: Rollout) -> list[str]:
    """Returns which arm has no traffic now. A step without traffic in one arm has nothing to compare, and must wait.

    An arm has no traffic if it had none for a minute, or for ten times its mean interval if that is longer.
    """
    arms = [("the canary", rollout.step_requests, rollout.silent_s)]
    if not rollout.plan.from_broken:
        other = f"the part of {rollout.previous} that it is compared with"
        arms.append((other, rollout.step_baseline, rollout.baseline_silent_s))
    found = []
    for arm, requests, silent in arms:
        if not requests:
            found.append(f"{arm} had no request in this step")
        elif silent > max(_SILENT_SECONDS, _SILENT_GAPS * rollout.step_s / requests):
            found.append(f"{arm} had no request for {silent:.0f} s")
    return found


def verdict_text(rollout: Rollout) -> str:
    """Returns why the candidate is rolled back, in words and numbers."""
    return _verdict_text(rollout, rollout.evidence, rollout.alpha)


def server_verdict_text(rollout: Rollout, server: str) -> str:
    """Returns why the candidate is rolled back because of one server's evidence, in words and numbers."""
    several = rollout.per_server.evidence
    message = _verdict_text(rollout, several[server], rollout.servers_alpha / len(several))
    return f"on {server}, one of {len(several)} servers, {message}"


def _verdict_text(rollout: Rollout, evidence: Evidence, alpha: float) -> str:
    strongest = max(evidence.metrics, key=lambda m: m.weight * evidence.of(m.name))
    known = evidence.accumulators[strongest.name]
    share = f"{known.canary.bad:,} of {known.canary.requests:,}"
    if strongest.one_armed:
        seen = f"{share} copies disagreed, where {share_text(strongest.null)} is allowed"
    else:
        other = f"{known.baseline.bad:,} of {known.baseline.requests:,}"
        seen = f"{_NOUNS.get(strongest.name, strongest.name)}: {share}, the baseline {other}"
    units = evidence.effective_units
    if units is not None and not strongest.one_armed:
        seen = f"{seen}; {units:.0f} effective tenants"
    threshold_text = f"E = {number_text(evidence.combined)}, threshold {number_text(1 / alpha)}"
    return f"{rollout.candidate} is worse than {rollout.previous} ({seen}; {threshold_text})"


_NOUNS = {
    "errors": "errors",
    "invalid": "answers with NaN or infinity",
    "p90": "slower than the baseline's p90",
    "p95": "slower than the baseline's p95",
    "p99": "slower than the baseline's p99",
    "stalled": "slower than ten times the baseline's p99",
    "slo": "slower than the objective",
}


def counts_text(rollout: Rollout) -> str:
    """Formats the counts of both arms, metric by metric."""
    parts = [
        f"{m.name} {a.canary.bad:,} of {a.canary.requests:,} against {a.baseline.bad:,} of {a.baseline.requests:,}"
        for m in rollout.evidence.metrics
        if (a := rollout.evidence.accumulators[m.name]) and not m.one_armed
    ]
    return "; ".join(parts)
