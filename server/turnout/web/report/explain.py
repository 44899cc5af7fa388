"""Explains the state of a rollout in sentences and numbers, for operators. Pure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from turnout.rollout.evidence import LEAST_BAD, Fitness, Metric
from turnout.rollout.machine.attempt import STEPPING
from turnout.rollout.machine.explain import few_units_text
from turnout.rollout.plan import Plan
from turnout.text.quantities import number_text, seconds_text
from turnout.text.shares import share_text
from turnout.web.report.formatting import duration_text
from turnout.web.report.replay import Replay
from turnout_proto.v1 import rollout_pb2 as pb

_ENDED = {
    "succeeded": "{candidate} is the baseline now.",
    "rolled_back": "{candidate} was rolled back; {previous} has the traffic.",
    "superseded": "Another rollout took its place.",
    "failed": "{candidate} could not be served; {previous} has the traffic.",
}
_INSUFFICIENT = {
    "pause": "the rollout pauses and waits for an operator",
    "abort": "the candidate is rolled back",
    "promote": "it goes on without that evidence",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The evidence of one metric.

    Attributes:
        meaning: What counts as a bad event.
        canary_bad, canary_requests: Number of bad events and of requests of the candidate.
        baseline_bad, baseline_requests: Number of bad events and of requests of the baseline; 0 if the metric has no
            baseline.
        ratio: Ratio of the candidate's rate of bad events to the baseline's or, for `disagreement`, to the allowed
            rate. None if there is nothing to compare.
        allowed: The highest ratio at which the candidate does not count as worse.
        e_value: Evidence that the candidate is worse.
        fit_value: Evidence that the candidate is fit for promotion.
        fit_below: The bound that the ratio must be shown to be below for a promotion.
        proof: Whether the metric currently allows a promotion, and why, as text.
        fit: Whether the metric currently allows a promotion.
    """

    name: str
    meaning: str
    canary_bad: int
    canary_requests: int
    baseline_bad: int
    baseline_requests: int
    ratio: float | None
    allowed: float
    e_value: float
    weight: float
    fit_value: float
    fit_below: float
    proof: str
    fit: bool

    @property
    def canary_text(self) -> str:
        """Bad events of the candidate as text, such as `12 of 400 (3%)`."""
        return _rate_text(self.canary_bad, self.canary_requests)

    @property
    def baseline_text(self) -> str:
        """Bad events of the baseline as text; "" if the metric has no baseline."""
        return "" if self.name == "disagreement" else _rate_text(self.baseline_bad, self.baseline_requests)

    @property
    def ratio_text(self) -> str:
        """The ratio as text, such as `4.2x`."""
        if self.ratio is None:
            return "-"
        return "only here" if math.isinf(self.ratio) else f"{number_text(self.ratio)}x"


@dataclass(frozen=True, slots=True)
class RolloutExplanation:
    """An explanation of a rollout's state.

    Attributes:
        verdict: Why the rollout ended or is ending; "" before that.
        findings: The evidence of each metric.
        e_value, threshold: Combined evidence that the candidate is worse, and the evidence at which it is rolled back.
        peak: Highest combined evidence so far.
        reading: Sentences that interpret the numbers.
        fit_threshold: Evidence from which a metric counts as fit for promotion.
        lacking: What the next step still needs, one sentence each.
        following: What happens next, one sentence each.
    """

    title: str
    status_sentence: str
    verdict: str
    findings: tuple[Finding, ...]
    e_value: float
    threshold: float
    peak: float
    reading: tuple[str, ...]
    fit_threshold: float
    lacking: tuple[str, ...]
    following: tuple[str, ...]


def explain(replay: Replay) -> RolloutExplanation:
    """Returns the explanation of a rollout."""
    rollout, plan = replay.rollout, replay.plan
    findings = tuple(_finding(metric, replay) for metric in plan.evidence_metrics)
    ended = rollout.state in _ENDED
    return RolloutExplanation(
        title=f"{rollout.model}: {rollout.candidate} over {rollout.previous}, attempt {rollout.attempt}",
        status_sentence=status_sentence(rollout),
        verdict=rollout.verdict,
        findings=findings,
        e_value=rollout.e_value,
        threshold=rollout.threshold,
        peak=replay.last.peak,
        reading=tuple(_reading(replay, findings)),
        fit_threshold=1 / plan.beta,
        lacking=() if ended or rollout.state == "aborting" else (*rollout.pauses, *rollout.lacking),
        following=tuple(_following(rollout, plan)),
    )


def status_sentence(rollout: pb.Rollout) -> str:
    """Returns the state of a rollout as a sentence without a full stop."""
    state = rollout.state.replace("_", " ")
    if rollout.state in STEPPING:
        state = f"{state}, step {rollout.step} of {rollout.steps} at {share_text(rollout.weight)}"
    elif rollout.state in ("promoting", "watching"):
        state = f"{state}, {share_text(rollout.weight)} of the traffic on {rollout.candidate}"
    return f"{state}; paused: {'; '.join(rollout.pauses)}" if rollout.pauses else state


def meaning(name: str, threshold_seconds: float) -> str:
    """Returns what counts as a bad event for a metric."""
    limit = f" ({seconds_text(threshold_seconds)})" if threshold_seconds else ""
    match name:
        case "errors":
            return "failed through no fault of the request"
        case "invalid":
            return "answered with NaN or infinity"
        case "stalled":
            return f"slower than ten times the baseline's p99{limit}"
        case "disagreement":
            return "copies that were answered otherwise"
        case "slo":
            return f"slower than the objective{limit}"
        case _:
            return f"slower than the baseline's {name}{limit}"


def _finding(metric: Metric, replay: Replay) -> Finding:
    known = replay.last.accumulators[metric.name]
    summary = {m.name: m for m in replay.rollout.metrics}.get(metric.name, pb.RolloutMetric())
    ratio, allowed, below = replay.ratio(metric), metric.null, metric.good_null
    if metric.one_armed:
        seen = known.canary
        ratio, allowed = (seen.bad / seen.requests / metric.null if seen.requests else None), 1.0
    fit, proof = _proof(metric, replay)
    return Finding(
        metric.name, meaning(metric.name, summary.threshold_seconds), known.canary.bad, known.canary.requests,
        known.baseline.bad, known.baseline.requests, ratio, allowed, replay.last.of(metric.name), metric.weight,
        replay.last.fit(metric.name), below, proof, fit,
    )  # fmt: skip


def _proof(metric: Metric, replay: Replay) -> tuple[bool, str]:
    plan, evidence = replay.plan, replay.last
    seen, enough = evidence.accumulators[metric.name].canary, max(plan.exposure_requests, 1)
    found = evidence.fitness(metric, plan.beta, plan.exposure_requests, alone=plan.from_broken)
    words = {
        Fitness.NOT_ASKED: "not asked for",
        Fitness.SHOWN: "shown",
        Fitness.CLEAN: f"no bad one in {seen.requests:,} requests",
        Fitness.FINE: f"shown to be rarer than {share_text(metric.fine_rate)}",
        Fitness.OPEN: "not yet" if seen.bad else f"no bad one yet, {seen.requests:,} of {enough:,} requests",
    }
    return found.fit, words[found]


def _reading(replay: Replay, findings: tuple[Finding, ...]) -> Iterator[str]:
    rollout, plan = replay.rollout, replay.plan
    worse, alpha = rollout.e_value >= rollout.threshold, rollout.alpha
    shared = f" (alpha {plan.alpha:g}, shared with other rollouts of the model)" if alpha < plan.alpha else ""
    yield (
        f"Combined evidence that {rollout.candidate} is worse: {number_text(rollout.e_value)}, "
        f"{'which reaches' if worse else 'below'} the threshold of {number_text(rollout.threshold)}."
    )
    if (units := replay.last.effective_units) is not None:
        yield few_units_text(replay.last) or (
            f"{units:.0f} effective tenants carry this canary: keyed requests count by tenant, not one by one."
        )
    yield (
        f"At most {share_text(alpha)} of rollouts of candidates that are not worse ever get that far, however "
        f"often one looks{shared}."
    )
    if rollout.e_value >= 1 and (strongest := max(findings, key=lambda f: f.weight * f.e_value)).e_value > 0:
        share = strongest.weight * strongest.e_value / rollout.e_value
        yield f"{share:.0%} of it comes from {strongest.name}."
    low = [f.name for f in findings if 0 < f.canary_bad < LEAST_BAD and f.e_value == 0]
    if low:
        yield f"Fewer than {LEAST_BAD} bad events of the candidate count as none: {', '.join(low)}."


def _following(rollout: pb.Rollout, plan: Plan) -> Iterator[str]:
    model, last = rollout.model, rollout.step == rollout.steps
    after = "it becomes the baseline" if last else f"step {rollout.step + 1} begins"
    if rollout.state in _ENDED:
        yield _ENDED[rollout.state].format(candidate=rollout.candidate, previous=rollout.previous)
        if rollout.state == "succeeded":
            yield f"`turnout rollback {model}` would give the traffic back to {rollout.previous}."
        else:
            yield f"Nothing is retried automatically; `turnout rollout retry {model}` begins another attempt."
        return
    if rollout.pauses:
        yield (
            f"`turnout rollout promote {model}` opens a gate or begins the next step, and `resume` ends any pause but "
            f"a gate's; after {duration_text(plan.max_pause_s)} of pause the candidate is rolled back."
        )
    limit = _INSUFFICIENT.get(plan.on_insufficient, plan.on_insufficient)
    match rollout.state:
        case "pending":
            yield "It begins when the rollout before it has ended."
        case "validating":
            wants = (
                f" and the baseline has shown its latency in {plan.threshold_samples:,} requests" if plan.timed else ""
            )
            yield (
                f"As soon as {rollout.candidate} is ready{wants}, "
                f"{'copies go to it' if plan.shadow else 'step 1 begins'}. If that takes more than "
                f"{duration_text(plan.validating_s)}, {limit}."
            )
        case "shadowing":
            yield f"If enough copies agree after {duration_text(rollout.soak_seconds)}, step 1 begins; if not, {limit}."
        case "ramping":
            yield "The step's weight is being put in force."
        case "soaking" | "deciding":
            deadline = plan.deadline(plan.steps[rollout.step - 1])
            yield (
                f"As soon as nothing is lacking, {after}. If something still is "
                f"{duration_text(deadline)} into the step, {limit}."
            )
        case "promoting":
            yield f"{rollout.candidate} is being made the baseline."
        case "watching":
            yield (
                f"For {duration_text(max(rollout.soak_seconds - rollout.step_seconds, 0))} more, "
                f"{rollout.candidate} may still be rolled back; then {rollout.previous} gives up its share."
            )
        case "aborting":
            yield f"The traffic is going back to {rollout.previous}; nothing stops that."
        case _:  # a state of a later release
            pass
    if rollout.state != "aborting":
        yield "Whenever the evidence reaches the threshold, the candidate is rolled back, paused or not."


def _rate_text(bad: int, requests: int) -> str:
    if not requests:
        return "none seen"
    return f"{bad:,} of {requests:,} ({bad / requests * 100:.3g}%)"
