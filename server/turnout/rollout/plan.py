"""The plan of a rollout: its steps, its metrics, and what happens if there is too little traffic. Pure."""

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Self, TypeVar

from turnout.errors import FieldViolation, InvalidRequest
from turnout.rollout.evidence import (
    DISAGREEMENT,
    ERRORS,
    INVALID,
    LATENCIES,
    SLO,
    STALLED,
    Metric,
    disagreement,
    errors,
    invalid,
    latency,
)
from turnout.rollout.guards.circuit_breaker import Breaker
from turnout.rollout.guards.guards import Guards

_WEIGHTS = {ERRORS: 0.4, "p99": 0.2, "p95": 0.2, "p90": 0.2, STALLED: 0.1, INVALID: 0.1, SLO: 0.2, DISAGREEMENT: 0.25}
"""Weight of each metric, before the weights of a plan are normalized to sum to 1."""

_MAX_STEPS = 50
_MAX_PROBES = 20
_MAX_SECONDS = 90 * 86_400.0
_MAX_SLO_MS = 3_600_000.0

RECENT = 4096
"""Number of latencies of a version that are kept to derive thresholds from. No plan can ask for more."""

KEPT = (INVALID, STALLED)
"""Metrics that every new plan includes: a candidate that never answers, or always answers NaN, has no errors."""

RETIRED = ("key_cap", "key_window_s")
"""Fields of earlier releases. They are accepted, since stored plans contain them, but ignored: the influence of one
routing key is bounded by the variation between keys (`turnout.rollout.evidence.keyed`)."""

M = TypeVar("M")

ON_INSUFFICIENT = ("pause", "abort", "promote")
ON_NEWER = ("refuse", "queue", "replace", "beside")


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step of a plan.

    Attributes:
        weight: The canary's share, above 0 and at most 1.
        soak_s: Minimum duration in active seconds.
        gate: Whether an operator has to let the step begin, by `turnout rollout promote`.
        guards: Limits of this step. They take precedence over the plan's.
        probes: Names of probes in this step, in addition to the plan's.
    """

    weight: float
    soak_s: float
    gate: bool = False
    guards: Guards | None = None
    probes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShadowStage:
    """A stage before the first step, in which the candidate gets copies of requests.

    Attributes:
        rate: Share of the baseline's requests that are copied.
        duration_s: Minimum duration in active seconds.
        agreement: Required share of copies that agree.
        min_samples: Minimum number of comparisons.
    """

    rate: float = 0.1
    duration_s: float = 600.0
    agreement: float = 0.99
    min_samples: int = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """A rollout's plan. The defaults suit a first rollout.

    Attributes:
        steps: Steps in order. Promotion follows the last.
        shadow: The stage before the steps; None for no such stage.
        metrics: Metrics to compare, of `errors`, `invalid` (NaN or infinity in an output), `p99`, `p95`, `p90`,
            `stalled` (slower than ten times the baseline's p99) and `slo`. `invalid` and `stalled` are added to every
            new rollout.
        alpha: Maximum probability of rolling back a candidate that is not worse.
        beta: Maximum probability of promoting, on the evidence, a candidate that is not fit.
        min_requests: Minimum number of requests of the canary in each step.
        exposure_requests: Number of requests of the canary required for promotion if it had no bad event, in which case
            no ratio can be shown; 0 if the last step's soak is enough.
        slo_ms: Latency objective of the metric `slo` in milliseconds; None for no objective.
        threshold_samples: Number of latencies of the baseline required before the first step.
        warm_requests: Number of first requests of each batch size that latency metrics ignore.
        validating_s: Maximum time in seconds for the candidate to become ready and for the baseline's latency to be
            measured.
        step_deadline_s: Maximum duration of a step in active seconds; 0 for four times its soak and a minute.
        max_duration_s: Maximum duration of the whole rollout in active seconds.
        max_pause_s: Maximum time in seconds, of the wall clock, that the rollout may be paused or without a ready
            candidate.
        on_insufficient: Action at a deadline before there was enough traffic: pause, abort or promote.
        on_newer: What happens if another rollout of the model is running: refuse this plan, queue it, replace the other
            rollout, or run beside it, sharing alpha.
        twin: Whether to compare with a part of the baseline that has a separate queue and a share like the canary's, so
            that neither side has larger queues or batches because of its share.
        watch_s: Active seconds after promotion in which the candidate may still be rolled back.
        holdback: Share that the previous version keeps during that time, to compare with.
        breaker: When a slot that fails on the candidate causes an immediate rollback. Not covered by alpha.
        guards: Absolute limits on the candidate, in every step and while it is watched. Not covered by alpha.
        from_broken: Whether the baseline is broken and the candidate is its fix: no latency is compared, nothing has to
            be measured on the baseline, and promotion depends on the candidate alone.
        probes: Names of probes in every step and while the candidate is watched.
    """

    steps: tuple[PlanStep, ...] = (
        PlanStep(0.01, 300.0),
        PlanStep(0.05, 600.0),
        PlanStep(0.25, 900.0),
        PlanStep(0.5, 1800.0),
    )
    shadow: ShadowStage | None = None
    metrics: tuple[str, ...] = (ERRORS, INVALID, "p99", "p95", "p90", STALLED)
    alpha: float = 0.01
    beta: float = 0.05
    min_requests: int = 100
    exposure_requests: int = 0
    slo_ms: float | None = None
    threshold_samples: int = 200
    warm_requests: int = 20
    validating_s: float = 600.0
    step_deadline_s: float = 0.0
    max_duration_s: float = 86_400.0
    max_pause_s: float = 7 * 86_400.0
    on_insufficient: str = "pause"
    on_newer: str = "refuse"
    twin: bool = True
    watch_s: float = 1800.0
    holdback: float = 0.05
    breaker: Breaker = Breaker()  # noqa: RUF009 - a frozen value
    guards: Guards | None = None
    from_broken: bool = False
    probes: tuple[str, ...] = ()

    @property
    def complete(self) -> "Plan":
        """The plan with the metrics that every new rollout includes."""
        return replace(self, metrics=(*self.metrics, *(name for name in KEPT if name not in self.metrics)))

    @property
    def digest(self) -> str:
        """SHA-256 of the plan in canonical form."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    @property
    def evidence_metrics(self) -> tuple[Metric, ...]:
        """The metrics of the evidence. Their weights sum to 1 and are fixed before the start."""
        names = [name for name in self.metrics if not (self.from_broken and name in LATENCIES)]
        if self.slo_ms is not None and SLO not in names:
            names.append(SLO)
        if self.shadow is not None:
            names.append(DISAGREEMENT)
        total = math.fsum(_WEIGHTS[name] for name in names)
        return tuple(self._metric(name, _WEIGHTS[name] / total) for name in names)

    @property
    def timed(self) -> tuple[str, ...]:
        """The metrics whose thresholds are derived from the baseline's latency."""
        return () if self.from_broken else tuple(name for name in self.metrics if name in LATENCIES)

    def guards_of(self, step: int | None) -> Guards:
        """Returns the limits in a step; None means after the last step."""
        own = self.steps[step].guards if step is not None else None
        return (own or Guards()).over(self.guards)

    def probes_of(self, step: int | None) -> tuple[str, ...]:
        """Returns the names of the probes in a step; None means after the last step."""
        own = self.steps[step].probes if step is not None else ()
        return tuple(dict.fromkeys((*self.probes, *own)))

    @property
    def probe_fields(self) -> Iterator[tuple[str, str]]:
        """The names of all probes in the plan, each with the field that contains it."""
        yield from (("probes", name) for name in self.probes)
        yield from ((f"steps[{n}].probes", name) for n, step in enumerate(self.steps) for name in step.probes)

    def deadline(self, step: PlanStep) -> float:
        """Returns the maximum duration of a step in active seconds."""
        return self.step_deadline_s or 4 * step.soak_s + 60.0

    def _metric(self, name: str, weight: float) -> Metric:
        if name == ERRORS:
            return errors(weight)
        if name == INVALID:
            return invalid(weight)
        if name == DISAGREEMENT:
            assert self.shadow is not None
            return disagreement(weight, max(1.0 - self.shadow.agreement, 1e-6))
        return latency(name, weight)

    def _limits(self) -> Iterator[tuple[str, Guards]]:
        named = [("guards", self.guards), *((f"steps[{n}].guards", step.guards) for n, step in enumerate(self.steps))]
        yield from ((field, limits) for field, limits in named if limits is not None)

    def to_json(self) -> dict[str, Any]:
        """Returns the form that is stored and that plan files have."""
        body = asdict(self)
        for table in (body, *body["steps"]):
            if not table["probes"]:
                del table["probes"]  # so that releases without probes can read the plan and the digest stays the same
        return {key: list(value) if isinstance(value, tuple) else value for key, value in body.items()}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Parses a plan. Fields that are left out have their defaults.

        Raises:
            InvalidRequest: A field is unknown or has an invalid value.
        """
        problems: list[FieldViolation] = []
        body = {key: value for key, value in body.items() if key not in RETIRED}
        top = {key: value for key, value in body.items() if key in cls.__dataclass_fields__}
        there_are = f"unknown; there are {', '.join(sorted(cls.__dataclass_fields__))}"
        unknown = [FieldViolation(str(key), there_are) for key in sorted(body.keys() - top.keys())]
        given = _read(cls, top, "", problems)
        if not problems:
            plan = cls(**given)
            problems = plan._problems()
        if problems := [*unknown, *problems]:
            raise InvalidRequest("; ".join(f"{v.field}: {v.description}" for v in problems), violations=problems)
        return plan

    def _problems(self) -> list[FieldViolation]:
        found: list[FieldViolation] = []

        def check(field: str, value: object, fine: bool, expected: str) -> None:
            if not fine:
                got = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
                found.append(FieldViolation(field, f"expected {expected}, got {got[:64] or 'none'}"))

        weights = [step.weight for step in self.steps]
        check("steps", len(weights), 1 <= len(weights) <= _MAX_STEPS, f"1 to {_MAX_STEPS} steps")
        check("steps", weights, all(0.0001 <= w <= 1 for w in weights), "weights from 0.0001 to 1")
        check("steps", weights, weights == sorted(weights), "weights that do not fall")
        seconds = {
            "validating_s": self.validating_s, "step_deadline_s": self.step_deadline_s, "watch_s": self.watch_s,
            "max_duration_s": self.max_duration_s, "max_pause_s": self.max_pause_s,
        }  # fmt: skip
        for number, step in enumerate(self.steps):
            seconds[f"steps[{number}].soak_s"] = step.soak_s
        for field, value in seconds.items():
            check(field, value, 0 <= value <= _MAX_SECONDS, "seconds, 0 to 90 days")
        check("max_duration_s", self.max_duration_s, self.max_duration_s > 0, "more than 0")
        for field, level in (("alpha", self.alpha), ("beta", self.beta)):
            check(field, level, 1e-6 <= level <= 0.5, "0.000001 to 0.5")
        allowed = (ERRORS, INVALID, *LATENCIES, SLO)
        unknown = [name for name in self.metrics if name not in allowed]
        check("metrics", unknown, not unknown and len(self.metrics) > 0, f"some of {', '.join(allowed)}")
        check("metrics", self.metrics, len(set(self.metrics)) == len(self.metrics), "each metric once")
        objective = self.slo_ms is not None or SLO not in self.metrics
        check("slo_ms", "none", objective, "a number where `slo` is a metric")
        fine = self.slo_ms is None or 0 < self.slo_ms <= _MAX_SLO_MS
        check("slo_ms", self.slo_ms, fine, "milliseconds above 0, at most an hour")
        counts = {
            "min_requests": self.min_requests, "warm_requests": self.warm_requests,
            "exposure_requests": self.exposure_requests,
        }  # fmt: skip
        for field, count in counts.items():
            check(field, count, 0 <= count <= 10**9, "a whole number, 0 or more")
        samples = self.threshold_samples
        older = f"a whole number, 0 to {RECENT}: older ones are not kept"
        check("threshold_samples", samples, 0 <= samples <= RECENT, older)
        compared = (ERRORS,) if unknown or not self.metrics else self.evidence_metrics
        but_latencies = "one that is not a latency, where from_broken leaves latencies out"
        check("metrics", self.metrics, len(compared) > 0, but_latencies)
        for field, limits in self._limits():
            for key, share in (("error_share", limits.error_share), ("invalid_share", limits.invalid_share)):
                check(f"{field}.{key}", share, share is None or 0 <= share < 1, "a share, 0 or more and below 1")
            fine = limits.p99_ms is None or 0 < limits.p99_ms <= _MAX_SLO_MS
            check(f"{field}.p99_ms", limits.p99_ms, fine, "milliseconds above 0, at most an hour")
        for field, names in (
            ("probes", self.probes),
            *((f"steps[{n}].probes", s.probes) for n, s in enumerate(self.steps)),
        ):
            fine = len(set(names)) == len(names) <= _MAX_PROBES
            check(field, names, fine, f"each probe once, {_MAX_PROBES} at most")
        tripping = self.breaker
        for key, number in (("requests", tripping.requests), ("known", tripping.known)):
            check(f"breaker.{key}", number, 1 <= number <= 200, "1 to 200 requests: more are not kept")
        for key, share in (("bad_before", tripping.bad_before), ("bad_elsewhere", tripping.bad_elsewhere)):
            check(f"breaker.{key}", share, 0 <= share <= 1, "a share, 0 to 1")
        check("breaker.bad", tripping.bad, 0 < tripping.bad <= 1, "a share above 0, at most 1")
        for field, choice, choices in (
            ("on_insufficient", self.on_insufficient, ON_INSUFFICIENT),
            ("on_newer", self.on_newer, ON_NEWER),
        ):
            check(field, choice, choice in choices, " or ".join(choices))
        check("holdback", self.holdback, 0 <= self.holdback <= 0.5, "0 to 0.5")
        watched = self.holdback > 0 or self.watch_s == 0
        check("holdback", self.holdback, watched, "more than 0 while there is watching to do")
        if (stage := self.shadow) is not None:
            check("shadow.rate", stage.rate, 0 < stage.rate <= 1, "above 0 and at most 1")
            check("shadow.duration_s", stage.duration_s, 0 <= stage.duration_s <= _MAX_SECONDS, "seconds, 0 to 90 days")
            check("shadow.agreement", stage.agreement, 0.5 <= stage.agreement < 1, "0.5 or more, below 1")
            check("shadow.min_samples", stage.min_samples, 1 <= stage.min_samples <= 10**9, "a whole number, 1 or more")
        return found


_TABLES: Mapping[object, type] = {ShadowStage | None: ShadowStage, Guards | None: Guards, Breaker: Breaker}


def _read(kind: type, body: object, where: str, problems: list[FieldViolation]) -> dict[str, Any]:
    """Returns the values in `body` for the fields of `kind`, converted to their types; adds errors to `problems`."""
    if not isinstance(body, Mapping):
        problems.append(
            FieldViolation(where or "plan", f"expected a table of {', '.join(f.name for f in fields(kind))}")
        )
        return {}
    known = {f.name: f for f in fields(kind)}
    found: dict[str, Any] = {}
    for key, value in body.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in known:
            problems.append(FieldViolation(name, f"unknown; there are {', '.join(sorted(known))}"))
        else:
            found[key] = _value(known[key].type, value, name, problems)
    for name, spec in known.items():
        if spec.default is MISSING and name not in found:
            problems.append(FieldViolation(f"{where}.{name}", "missing"))
    return found


def _value(kind: object, value: object, name: str, problems: list[FieldViolation]) -> Any:
    """Returns one value in the type of its field. Whole numbers become floats where needed, so that digests agree."""
    # An integer of 400 digits does not fit a float.
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if value is None and kind in (float | None, ShadowStage | None, Guards | None):
        return None
    if (table := _TABLES.get(kind)) is not None:
        return _made(table, value, name, problems)
    if kind == tuple[PlanStep, ...] and isinstance(value, list | tuple):
        return tuple(_made(PlanStep, one, f"{name}[{index}]", problems) for index, one in enumerate(value))
    if kind == tuple[str, ...] and isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return tuple(value)
    if kind in (float, float | None) and isinstance(value, int | float) and number:
        return float(value)
    if (kind is int and number and isinstance(value, int)) or (kind in (bool, str) and type(value) is kind):
        return value
    expected: dict[object, str] = {
        int: "a whole number",
        bool: "true or false",
        str: "a word",
        tuple[str, ...]: "a list of words",
    }
    steps = "a list of tables of weight, soak_s and gate"
    wanted = steps if kind == tuple[PlanStep, ...] else expected.get(kind, "a number")
    problems.append(FieldViolation(name, f"expected {wanted}, got {value!r:.64}"))
    return value


def _made(kind: type[M], body: object, name: str, problems: list[FieldViolation]) -> M | None:
    before = len(problems)
    given = _read(kind, body, name, problems)
    return kind(**given) if len(problems) == before else None
