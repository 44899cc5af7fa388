"""Warm-up times batch sizes, and only those that pay are kept."""

from collections.abc import Callable

import numpy as np
import pytest

from turnout.errors import ModelFailure
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.batching.warmup import divided_plan, paying_plan, warm_up

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


def _divided(seconds: Callable[[int], float], parallel: int, max_rows: int = 32) -> BatchPlan:
    return divided_plan(_plan(max_rows), _warm(Machine(seconds), max_rows, only=False), parallel)


@pytest.mark.parametrize(("waiting", "taken"), [(1, 1), (2, 1), (3, 2), (4, 2), (63, 32), (64, 32), (1000, 32)])
def test_rows_that_cost_nearly_the_same_alone_are_divided_between_runners(waiting: int, taken: int) -> None:
    assert _divided(lambda rows: 0.004 * rows * 0.95 ** (rows > 1), 2).share(waiting) == taken


@pytest.mark.parametrize(
    ("seconds", "efficient"),
    [
        (lambda rows: 0.004, 32),  # free in company: it is the weights that take the time
        (lambda rows: 0.004 + 0.001 * rows, 16),
        (lambda rows: 0.0005 + 0.004 * rows, 1),
        (lambda rows: 5e-6 * rows, 32),  # handing over costs more than the run
        (lambda rows: 0.01 * max(rows, 4), 4),
    ],
)
def test_no_batch_is_divided_into_ones_in_which_a_row_costs_much_more(seconds, efficient: int) -> None:
    plan = _divided(seconds, 4)
    assert plan.efficient_rows == efficient
    assert [plan.share(waiting) for waiting in (1, efficient, 4 * efficient)] == [efficient] * 3


def test_runs_that_share_a_device_take_all_that_waits() -> None:
    plan = _divided(lambda rows: 0.004 * rows, 1)
    assert [plan.share(waiting) for waiting in (1, 2, 31, 32, 100)] == [1, 2, 31, 32, 32]


def test_a_queue_is_not_divided_where_nothing_was_timed() -> None:
    plan = divided_plan(_plan(8), warm_up(Machine(lambda _: 0.1).run, _plan(8), ["y"], 0, True), 4)
    assert plan.share(8) == 8


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
