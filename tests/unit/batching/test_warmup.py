"""Warm-up times batch sizes, and only those that pay are kept."""

from collections.abc import Callable

import numpy as np
import pytest

from turnout.errors import ModelFailure
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.batching.warmup import paying_plan, warm_up

X = np.zeros((1, 4), np.float32)


class Machine:
    """A clock, and a run that takes as long as it is told for so many rows."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.now = 0.0
        self.seconds = seconds

    def clock(self) -> float:
        return self.now

    def run(self, inputs, outputs):
        self.now += self.seconds(len(inputs["x"]))
        return [inputs["x"]]


def _plan(max_rows: int) -> BatchPlan:
    return BatchPlan(max_rows, {"x": 0}, {"y": 0}, "batched (proved: x axis 0)", {"x": X})


def _warm(machine: Machine, max_rows: int, *, only: bool = True):
    return warm_up(machine.run, _plan(max_rows), ["y"], 2, only, machine.clock)


def test_rows_that_are_free_in_company_are_batched_to_the_full() -> None:
    warmth = _warm(Machine(lambda rows: 0.01), 32)
    assert list(warmth.seconds_by_rows) == [1, 2, 4, 8, 16, 32]
    assert paying_plan(_plan(32), warmth).max_rows == 32


def test_rows_that_cost_the_same_in_company_are_not_batched() -> None:
    warmth = _warm(Machine(lambda rows: 0.01 * rows), 32)
    assert list(warmth.seconds_by_rows) == [1, 2, 4, 8]  # larger ones would not be used either
    plan = paying_plan(_plan(32), warmth)
    assert plan.max_rows == 0
    assert "does not pay" in plan.reason


def test_batches_end_where_more_rows_stop_to_pay() -> None:
    warmth = _warm(Machine(lambda rows: 0.01 * max(rows, 4)), 64)
    plan = paying_plan(_plan(64), warmth)
    assert plan.max_rows == 4
    assert "more than 4 rows do not pay" in plan.reason


def test_every_size_is_warmed_where_it_need_not_pay() -> None:
    assert list(_warm(Machine(lambda rows: 0.01 * rows), 32, only=False).seconds_by_rows) == [1, 2, 4, 8, 16, 32]


def test_sizes_that_would_take_too_long_are_left_cold_and_said_so() -> None:
    warmth = _warm(Machine(lambda rows: 4.0), 32, only=False)
    assert max(warmth.seconds_by_rows) < 32
    assert "were not warmed up" in warmth.warning


@pytest.mark.parametrize(("runs", "sample", "message"), [(0, X, "turned off"), (2, None, "golden case")])
def test_what_was_not_warmed_is_said(runs, sample, message) -> None:
    plan = BatchPlan(0, sample=None if sample is None else {"x": sample})
    assert message in warm_up(Machine(lambda _: 0.1).run, plan, ["y"], runs, True).warning


def test_a_model_that_raises_on_made_up_inputs_is_a_warning_not_a_failure() -> None:
    def run(inputs, outputs):
        raise ModelFailure("no")

    assert "failed" in warm_up(run, _plan(4), ["y"], 2, True).warning
