"""Recomputes a rollout's evidence from its recorded ticks. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Protocol, Self

from turnout.errors import InvalidRequest
from turnout.rollout.evidence import DISAGREEMENT, Count, Evidence, Metric, Tick
from turnout.rollout.plan import Plan
from turnout_proto.v1 import rollout_pb2 as pb

Latency = Mapping[int, int]
"""Number of requests by bucket index. The index after the last bound is for requests above it."""


@dataclass(frozen=True, slots=True)
class RecordedTick:
    """A recorded tick.

    Attributes:
        time: Time of the tick, UTC.
        weight: Desired share of the candidate; None if it was not recorded.
        state: State of the rollout; "" if it was not recorded.
        canary, baseline: Latency histograms of both arms; empty if they were not recorded.
    """

    time: datetime
    tick: Tick
    weight: float | None = None
    state: str = ""
    canary: Latency = field(default_factory=dict)
    baseline: Latency = field(default_factory=dict)

    @classmethod
    def from_json(cls, time: datetime, body: Mapping[str, Any]) -> Self:
        """Parses an element of `ticks_json`. Raises InvalidRequest if the element is not a valid tick."""
        try:
            if "shadow" in body:
                requests, bad = body["shadow"]
                tick = Tick.unkeyed(0.0, {DISAGREEMENT: Count(int(requests), int(bad))}, {}, 1)
            else:
                tick = Tick.from_json(body)
            weight, latency = body.get("weight"), body.get("latency") or {}
            canary, baseline = (
                {int(bucket): int(count) for bucket, count in (latency.get(arm) or {}).items()}
                for arm in ("canary", "baseline")
            )
            weight = None if weight is None else float(weight)
            return cls(time, tick, weight, str(body.get("state") or ""), canary, baseline)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest(f"a tick cannot be read: {type(error).__name__} {error}") from None


@dataclass(frozen=True, slots=True)
class Replay:
    """A rollout with its ticks and the evidence after each of them."""

    rollout: pb.Rollout
    plan: Plan
    recorded_ticks: Sequence[RecordedTick]
    evidence: Sequence[Evidence]

    @classmethod
    def of(cls, answer: pb.GetRolloutTicksResponse) -> Self:
        """Recomputes the evidence, tick by tick, from a server's response.

        Raises:
            InvalidRequest: This release cannot read the response.
        """
        try:
            bodies = [json.loads(text) for text in answer.ticks_json]
        except (ValueError, RecursionError):
            raise InvalidRequest("the server sent ticks that are not JSON") from None
        rollout, plan = answer.rollout, read_plan_json(answer.rollout.plan_json)
        times = (stamp.ToDatetime(UTC) for stamp in answer.times)
        recorded_ticks = [RecordedTick.from_json(time, body) for time, body in zip(times, bodies, strict=True)]
        evidence = [Evidence.start(plan.evidence_metrics, plan.max_duration_s)]
        for one in recorded_ticks:
            evidence.append(evidence[-1].taken(one.tick))
        return cls(rollout, plan, recorded_ticks, evidence[1:])

    @property
    def last(self) -> Evidence:
        """The latest evidence."""
        return self.evidence[-1] if self.evidence else Evidence.start(self.plan.evidence_metrics, 1.0)

    def ratio(self, metric: Metric) -> float | None:
        """Returns the ratio of the candidate's rate of bad events to the baseline's.

        This is the estimator of Mantel and Haenszel (1959), stratified by tick, so that drifting load and changing
        weights cancel out, as in the evidence. Infinity if only the candidate had bad events; None if there is nothing
        to compare.
        """
        parts = [worse_and_better(one.tick, metric.name) for one in self.recorded_ticks]
        return ratio_of(sum(worse for worse, _ in parts), sum(better for _, better in parts))


ARMS = ("canary", "baseline")


class Seen(Protocol):
    """A rollout and its evidence, either replayed from all ticks or tracked incrementally."""

    @property
    def rollout(self) -> pb.Rollout:
        """Current state of the rollout."""

    @property
    def plan(self) -> Plan:
        """Plan of the rollout."""

    @property
    def last(self) -> Evidence:
        """The latest evidence."""

    def ratio(self, metric: Metric) -> float | None:
        """Returns the same ratio as `Replay.ratio`."""


def worse_and_better(tick: Tick, metric: str) -> tuple[float, float]:
    """Returns a tick's terms in the numerator and denominator of the Mantel-Haenszel ratio."""
    worse = better = 0.0
    for stratum in tick.strata:
        unkeyed = stratum.canary.get(metric), stratum.baseline.get(metric)
        keyed = stratum.keyed_canary.get(metric), stratum.keyed_baseline.get(metric)
        # Keyed requests are compared with what was expected of their key: a tenant that was always slow does not count.
        for pair in (
            [(one.requests, one.bad) for one in unkeyed if one is not None],
            [(float(one.expected.sum()), one.total.bad) for one in keyed if one is not None],
        ):
            if len(pair) == len(ARMS) and all(exposure > 0 for exposure, _ in pair):
                (a, a_bad), (b, b_bad) = pair
                worse, better = worse + a_bad * b / (a + b), better + b_bad * a / (a + b)
    return worse, better


def ratio_of(worse: float, better: float) -> float | None:
    """Returns the ratio of both sums; infinity if only `worse` is above 0, None if neither is."""
    if better:
        return worse / better
    return float("inf") if worse else None


def read_plan_json(text: str) -> Plan:
    """Parses a plan from a server. Fields that a later release has added are ignored.

    Raises:
        InvalidRequest: This release cannot read the plan.
    """
    try:
        body = json.loads(text)
        return Plan.from_json({f.name: body[f.name] for f in fields(Plan) if f.name in body})
    except (ValueError, TypeError, RecursionError):
        raise InvalidRequest("the server sent a plan that cannot be read") from None
    except InvalidRequest as error:
        raise InvalidRequest(f"the server tells a plan that this release cannot read: {error.message}") from None
