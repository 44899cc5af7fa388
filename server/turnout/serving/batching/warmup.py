"""Warm-up: a version's first, unmeasured runs, and what their times show about the best batch size."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from turnout.errors import TurnoutError
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.inputs.rows import doubled_up_to, join
from turnout.serving.sessions.session import Run
from turnout.serving.sessions.tensor import Array

_BUDGET_SECONDS = 20.0
"""Warm-up stops before the next larger batch size once it has taken this long."""

_GIVE_UP = 8
"""Warm-up ends with the first batch size of at least this many times the best size so far."""

_WORTHWHILE = 0.95
"""A larger batch pays off if a row in it costs at most this fraction of what it costs in a smaller one."""

_HAND_OVER_SECONDS = 150e-6
"""What each run costs besides the model: joining and splitting tensors, and two changes of threads."""

_EFFICIENT = 1.25
"""A batch is efficient if a row in it costs at most this many times as much as in the best batch size."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The result of warm-up.

    Attributes:
        seconds_by_rows: Shortest run in seconds for each batch size; empty if nothing was run.
        bytes_per_row: Size of the inputs of one row in bytes.
        warning: Why nothing was run, or why warm-up ended early; "" if all went well.
    """

    seconds_by_rows: Mapping[int, float] = field(default_factory=dict)
    bytes_per_row: int = 0
    warning: str = ""


def warm_up(
    run: Run,
    plan: BatchPlan,
    outputs: Sequence[str],
    runs: int,
    only_where_it_pays: bool,
    clock: Callable[[], float] = time.perf_counter,
) -> WarmUp:
    """Runs the sample at each batch size that may be used: once, and `runs` times to measure; 0 skips warm-up.

    With `only_where_it_pays`, it stops at batch sizes in which a row costs as much as alone.
    """
    if not runs:
        return WarmUp(warning="warm-up is turned off")
    if plan.sample is None:
        return WarmUp(warning="no inputs were found that it runs on; a golden case would give them")
    began = clock()
    quickest: dict[int, float] = {}
    warning = ""
    for rows in doubled_up_to(plan.max_rows):
        if clock() - began > _BUDGET_SECONDS:
            warning = f"batches of {rows} rows or more were not warmed up: warm-up had taken {_BUDGET_SECONDS:.0f} s"
            break
        inputs = join(plan.input_axes, [plan.sample] * rows)
        try:
            # The first run of a shape allocates its memory, so it warms up; the others measure.
            quickest[rows] = min(_timed(run, inputs, outputs, clock) for _ in range(runs + 1))
        except TurnoutError as error:
            warning = f"warm-up with {rows} rows failed: {error.message}"
            break
        if only_where_it_pays and rows >= _GIVE_UP * best_rows(quickest):
            break
    return WarmUp(quickest, sum(a.nbytes for a in plan.sample.values()), warning)


def paying_plan(plan: BatchPlan, warmth: WarmUp) -> BatchPlan:
    """Returns `plan` with `max_rows` reduced to the batch size that pays off by the times of `warmth`.

    Larger batches would only add latency.
    """
    times = warmth.seconds_by_rows
    if plan.max_rows < 2 or len(times) < 2:
        return plan
    best = best_rows(times)
    largest = max(times)
    measured = f"1 row {times[1] * 1e3:.2f} ms, {largest} rows {times[largest] * 1e3:.2f} ms"
    if best == 1:
        return replace(plan, max_rows=0, reason=f"unbatched: batching does not pay off here ({measured})")
    if best < min(largest, plan.max_rows):
        return replace(plan, max_rows=best, reason=f"{plan.reason}; more than {best} rows do not pay off ({measured})")
    return plan


def divided_plan(plan: BatchPlan, warmth: WarmUp, parallel: int) -> BatchPlan:
    """Returns `plan` with a queue that is divided between runners, into batches that are efficient by `warmth`.

    `parallel` is the number of runs that do not slow one another down. If nothing was measured, nothing is divided.
    """
    cost = {n: (s + _HAND_OVER_SECONDS) / n for n, s in warmth.seconds_by_rows.items() if n <= plan.max_rows}
    if parallel < 2 or len(cost) < 2:
        return plan
    least = min(cost.values())
    efficient = min(rows for rows, seconds in cost.items() if seconds <= _EFFICIENT * least)
    return replace(plan, parallel=parallel, efficient_rows=efficient)


def best_rows(seconds_by_rows: Mapping[int, float]) -> int:
    """Returns the largest batch size that pays off, from the times of sizes in ascending order."""
    best = 1
    for rows, seconds in seconds_by_rows.items():
        if seconds / rows <= _WORTHWHILE * seconds_by_rows[best] / best:
            best = rows
    return best


def _timed(run: Run, inputs: Mapping[str, Array], outputs: Sequence[str], clock: Callable[[], float]) -> float:
    start = clock()
    run(inputs, outputs)
    return clock() - start
