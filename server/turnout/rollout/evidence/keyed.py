"""Keyed traffic: a sequential test whose sample consists of units, not requests. Pure.

A unit is an (arm, slot group) pair. All requests with one routing key are in the same arm; if they were counted as
independent, differences between tenants would look like an effect. Four measures keep the guarantee
(docs/decisions/0049-the-unit-is-the-slot.md):

    standardise   e = requests x the unit's own share of bad events before the first step, times the base rate of each
                  tick, so that drifting load, changed weights, changed thresholds and differences of servers cancel
    weigh         w = 1 / (1 + s mu) for a unit with mu expected bad events, where s is the variance between units' own
                  ratios: the information of a unit is bounded by how much units differ, however many requests it has
                  (the weights of a random-effects model: DerSimonian & Laird 1986; Breslow 1984 for counts)
    disperse      phi = robust variance of the weighted score between units over that of independent events (Deng,
                  Knoblich & Lu 2018, arXiv 1803.06336), at least 1, inflated by (m-1)/(m-3)
    floor         nothing below m = 10 effective units, m = (sum w e)^2 / sum (w e)^2 of the smaller arm

    log M         mass that existed when keyed traffic began: S / phi, computed anew with every tick
                  mass that starts later: the increments of its ticks, weighted by w^2 and divided by phi at that time.
                  A unit keeps showing what it has shown before, and the new information of mu more events is the
                  derivative of mu / (1 + s mu), which is w^2. With w, units that merely differ would add up without
                  bound.

The test is asymptotic in the number of units; for unkeyed traffic, the guarantee is exact.
Every function accepts leading axes, so that a simulation can run a thousand rollouts at once with the same code. Arrays
have shape (..., 2, groups), with the canary first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from turnout.rollout.evidence.dispersion import LEAST_UNITS, by_arm, standardised, weigh
from turnout.rollout.evidence.metrics import Metric
from turnout.rollout.evidence.packing import packed, single, unpacked
from turnout.rollout.evidence.serial import shared_fate
from turnout.rollout.evidence.ticks import GROUPS, Floats, Ints, SameArrays, Tick


@dataclass(frozen=True, slots=True, eq=False)
class KeyedTest(SameArrays):
    """One test of one metric on keyed traffic, against one null hypothesis.

    Attributes:
        null: Rate ratio of the null hypothesis.
        ratios: Rate ratios of the alternatives.
        bad: Bad events by unit, of ticks in which both arms had traffic; shape (..., 2, groups).
        expected: Expected bad events: exposures times the base rate of each tick; same shape.
        held: log M of each alternative without keyed traffic, of the mass that existed when it began; shape (..., J).
        late: log M of the mass that started since; same shape.
        log_current: Present log likelihood ratio of the units for `held`, S / phi; same shape.
        phi, units: As in `Weighing`, as of the last tick with a bad event.
        excess: Sum over ticks of the bad events, each times the excess of its tick's dispersion over 1; shape (...).
    """

    null: float
    ratios: tuple[float, ...]
    bad: Floats
    expected: Floats
    held: Floats
    late: Floats
    log_current: Floats
    phi: Floats
    units: Floats
    excess: Floats

    @classmethod
    def start(cls, null: float, ratios: Sequence[float], log_m: Floats, groups: int) -> Self:
        """Returns the test before any keyed request, with the evidence of unkeyed ones in `log_m`."""
        leading = log_m.shape[:-1]
        nothing = np.zeros((*leading, 2, groups))
        never = np.full(log_m.shape, -np.inf)
        one, zero = np.ones(leading), np.zeros(leading)
        return cls(null, tuple(ratios), nothing, nothing, log_m, never, np.zeros(log_m.shape), one, zero, zero)

    def to_json(self, some: Ints) -> dict[str, Any]:
        """Returns the form in which the state store keeps it; `some` are the groups that are not empty."""
        return {
            "expected": packed(*self.expected[:, some]), "held": _numbers(self.held), "late": _numbers(self.late),
            "told": _numbers(self.log_current), "phi": float(self.phi), "units": float(self.units),
            "excess": float(self.excess),
        }  # fmt: skip

    @classmethod
    def from_json(cls, body: Mapping[str, Any], null: float, ratios: Sequence[float], bad: Floats, some: Ints) -> Self:
        """Parses the output of `to_json`. Raises ValueError if it is of another test."""
        expected = np.zeros(bad.shape)
        expected[:, some] = unpacked(body["expected"], "ff")
        held, late, log_current = (_logs(body[name], len(ratios)) for name in ("held", "late", "told"))
        phi, units = (np.asarray(float(body[name])) for name in ("phi", "units"))
        excess = np.asarray(float(body.get("excess", 0.0)))  # earlier releases took neighbours for independent
        if (
            not np.isfinite([*expected.ravel(), *held, *log_current, phi, units, excess]).all()
            or (late == np.inf).any()
            or phi < 1
            or excess < 0
        ):
            raise ValueError("expected the numbers of a test on keyed traffic")
        return cls(null, tuple(ratios), bad, expected, held, late, log_current, phi, units, excess)

    @property
    def log_m(self) -> Floats:
        """The log M of each alternative; shape (..., J)."""
        return np.logaddexp(self.held + self.log_current, self.late)

    def taken(
        self,
        strata: Sequence[tuple[Floats, Floats]],
        unkeyed: Floats,
        gamma: float,
        least_phi: int,
        dispersion: Sequence[float] = (),
    ) -> Self:
        """Returns the test with one more tick.

        Args:
            strata: For each server, bad events and exposures by unit; shape (..., 2, groups).
            unkeyed: What unkeyed traffic adds to log M in this tick; shape (..., J).
            gamma: Mass that starts with this tick.
            least_phi: Requests that share their fate in a batch.
            dispersion: Of each server, as of `Stratum`; () for 1 of each.
        """
        held, late = self.held + unkeyed, _started(self.late, gamma) + unkeyed
        if not any(bad.any() for bad, _ in strata):
            return replace(self, held=held, late=late)
        pairs = [standardised(bad, exposure, self.null) for bad, exposure in strata]
        bad = np.sum([self.bad, *(x for x, _ in pairs)], axis=0)
        expected = single(np.sum([self.expected, *(e for _, e in pairs)], axis=0))
        serial = np.asarray(dispersion or [1.0] * len(strata))
        excess = self.excess + sum((d - 1.0) * x.sum((-2, -1)) for d, (x, _) in zip(serial, pairs, strict=True))
        least = shared_fate(1.0 + excess / np.maximum(bad.sum((-2, -1)), 1.0), least_phi)
        weights, phi, units = weigh(bad, expected, self.null, least)
        enough = (units >= LEAST_UNITS)[..., None]
        log_current = np.where(enough, self._log_ratio(weights * bad, weights * expected) / phi[..., None], 0.0)
        for (x, e), shared in zip(pairs, shared_fate(serial, least_phi), strict=True):
            step = self._log_ratio(weights**2 * x, weights**2 * e) / np.maximum(phi, shared)[..., None]
            late = late + np.where(enough, step, 0.0)
        return replace(
            self, bad=bad, expected=expected, held=held, late=late, log_current=log_current, phi=phi, units=units,
            excess=excess,
        )  # fmt: skip

    def _log_ratio(self, bad: Floats, exposure: Floats) -> Floats:
        """Returns the log likelihood ratios of the canary's share of the bad events, alternatives against the null."""
        (x_c, x_b), (e_c, e_b) = (by_arm(one.sum(-1)) for one in (bad, exposure))
        x_c, x_b, e_c, e_b = (one[..., None] for one in (x_c, x_b, e_c, e_b))
        both = (e_c > 0) & (e_b > 0)
        a, b = np.where(both, e_c, 1.0), np.where(both, e_b, 1.0)
        ratios = np.asarray(self.ratios)
        common = np.log((self.null * a + b) / (ratios * a + b))
        return np.where(both, x_c * (np.log(ratios / self.null) + common) + x_b * common, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Keyed(SameArrays):
    """The evidence of keyed traffic for one metric.

    Attributes:
        worse, fit: The tests against "not worse" and "not fit for promotion".
        requests, bad: The canary's own counts by slot group, regardless of the baseline, for metrics in which rare bad
            events are acceptable (`Metric.fine_rate`); shape (GROUPS,).
    """

    worse: KeyedTest
    fit: KeyedTest
    requests: Ints
    bad: Ints

    @classmethod
    def start(cls, metric: Metric, worse: Sequence[float], fit: Sequence[float]) -> Self:
        """Returns the evidence before the first keyed request, given log M of the unkeyed ones."""
        none = np.zeros(GROUPS, np.int64)
        return cls(
            KeyedTest.start(metric.null, metric.alternatives, np.asarray(worse), GROUPS),
            KeyedTest.start(metric.good_null, metric.good_alternatives, np.asarray(fit), GROUPS),
            none,
            none,
        )

    def taken(
        self, metric: Metric, tick: Tick, worse: Sequence[float], fit: Sequence[float], gamma: float, phi: int
    ) -> Self:
        """Returns the evidence with one more tick, in which unkeyed traffic adds `worse` and `fit` to each log M of the
        tests.
        """
        strata, dispersion, requests, bad = [], [], self.requests, self.bad
        for stratum in tick.strata:
            canary, baseline = (arm.get(metric.name) for arm in (stratum.keyed_canary, stratum.keyed_baseline))
            if canary is not None and metric.fine_rate:
                requests, bad = requests + canary.requests, bad + canary.bad
            if canary is not None and baseline is not None:
                arms = canary, baseline
                strata.append((np.array([a.bad for a in arms], float), np.array([a.expected for a in arms])))
                dispersion.append(stratum.dispersion.get(metric.name, 1.0))
        return type(self)(
            self.worse.taken(strata, np.asarray(worse), gamma, phi, dispersion),
            self.fit.taken(strata, np.asarray(fit), gamma, phi, dispersion),
            requests,
            bad,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the form in which the state store keeps it."""
        (some,) = np.nonzero(self.requests + self.worse.expected.sum(0) + self.fit.expected.sum(0))
        return {
            "groups": packed(some, self.requests[some], self.bad[some], *self.worse.bad[:, some].astype(np.int64)),
            "worse": self.worse.to_json(some), "fit": self.fit.to_json(some),
        }  # fmt: skip

    @classmethod
    def from_json(cls, body: Mapping[str, Any], metric: Metric) -> Self:
        """Parses the output of `to_json` for the same metric. Raises ValueError if it contains no valid counts."""
        groups, *columns = unpacked(body["groups"], "iiiii")
        some, compared = groups.astype(np.int64), np.zeros((2, GROUPS))
        requests, bad = np.zeros(GROUPS, np.int64), np.zeros(GROUPS, np.int64)
        requests[some], bad[some], compared[:, some] = columns[0], columns[1], columns[2:]
        if (bad < 0).any() or (bad > requests).any() or (compared < 0).any():
            raise ValueError("expected requests and bad ones among them, by slot group")
        worse = KeyedTest.from_json(body["worse"], metric.null, metric.alternatives, compared, some)
        fit = KeyedTest.from_json(body["fit"], metric.good_null, metric.good_alternatives, compared, some)
        return cls(worse, fit, requests, bad)


def _numbers(logs: Floats) -> list[float | None]:
    """Returns logarithms as JSON values; None for the logarithm of 0."""
    return [None if one == -np.inf else float(one) for one in logs]


def _logs(numbers: Sequence[float | None], length: int) -> Floats:
    logs = np.array([-np.inf if one is None else float(one) for one in numbers])
    if logs.shape != (length,):
        raise ValueError(f"expected {length} alternatives, got {logs.shape}")
    return logs


def _started(log_m: Floats, gamma: float) -> Floats:
    """Returns log(exp(log_m) + gamma)."""
    return np.logaddexp(log_m, np.log(gamma)) if gamma > 0 else log_m
