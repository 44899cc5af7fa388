"""Recomputes a rollout's evidence from its recorded ticks. Pure."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Self

from turnout.errors import InvalidRequest
from turnout.rollout.evidence import DISAGREEMENT, Count, Evidence, Metric, Tick
from turnout.rollout.plan import Plan
from turnout_proto.v1 import rollout_pb2 as pb

Latency = Mapping[int, int]
"""Number of requests by bucket index. The index after the last bound is for requests above it."""


MOST_POINTS = 2000
"""Maximum number of points of a plot, which is more than a screen has columns."""


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
class PlotPoint:
    """A tick in the plots.

    Attributes:
        time: Time of the tick, in seconds since 1970.
        weight: The candidate's share of the traffic; None if it was not recorded.
        metrics: E-value of each metric, in the plan's order.
    """

    time: float
    weight: float | None
    combined: float
    metrics: tuple[float, ...]


class Replay:
    """A rollout and its evidence up to the last tick that was taken, in bounded memory.

    Attributes:
        rollout: State of the rollout.
        last: The evidence after the last tick.
        ticks: Number of ticks.
        latencies: Latency histograms of the candidate and the baseline over all ticks; empty if none were recorded.
    """

    def __init__(self, plan: Plan, rollout: pb.Rollout | None = None) -> None:
        self.plan = plan
        self.rollout = pb.Rollout() if rollout is None else rollout
        self.last = Evidence.start(plan.evidence_metrics, plan.max_duration_s)
        self.ticks = 0
        self.latencies: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        self._sums = {metric.name: (0.0, 0.0) for metric in plan.evidence_metrics}
        self._points: list[PlotPoint] = []
        self._latest: PlotPoint | None = None
        self._stride = 1

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
        replay = cls(read_plan_json(answer.rollout.plan_json), answer.rollout)
        for stamp, body in zip(answer.times, bodies, strict=True):
            replay.take(RecordedTick.from_json(stamp.ToDatetime(UTC), body))
        return replay

    def take(self, recorded: RecordedTick) -> None:
        """Replays the next tick. Halves the resolution of the plots when they have more points than a screen has."""
        self.last = self.last.taken(recorded.tick)
        for name, (worse, better) in self._sums.items():
            more, less = worse_and_better(recorded.tick, name)
            self._sums[name] = worse + more, better + less
        for arm, counts in zip(self.latencies, (recorded.canary, recorded.baseline), strict=True):
            arm.update(counts)
        values = tuple(self.last.of(metric.name) for metric in self.last.metrics)
        self._latest = PlotPoint(recorded.time.timestamp(), recorded.weight, self.last.combined, values)
        if self.ticks % self._stride == 0:
            self._points.append(self._latest)
        self.ticks += 1
        if len(self._points) > MOST_POINTS:
            self._points = self._points[::2]
            self._stride *= 2

    @property
    def points(self) -> Sequence[PlotPoint]:
        """The ticks to plot: all, or evenly spaced ones and the last."""
        latest = self._latest
        return [*self._points, *([latest] if latest is not None and latest is not self._points[-1] else [])]

    def ratio(self, metric: Metric) -> float | None:
        """Returns the ratio of the candidate's rate of bad events to the baseline's.

        This is the estimator of Mantel and Haenszel (1959), stratified by tick, so that drifting load and changing
        weights cancel out, as in the evidence. Infinity if only the candidate had bad events; None if there is nothing
        to compare.
        """
        worse, better = self._sums[metric.name]
        if better:
            return worse / better
        return float("inf") if worse else None


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
            if len(pair) == 2 and all(exposure > 0 for exposure, _ in pair):
                (a, a_bad), (b, b_bad) = pair
                worse, better = worse + a_bad * b / (a + b), better + b_bad * a / (a + b)
    return worse, better


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
