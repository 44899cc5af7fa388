"""First, unmeasured runs of a version, and what their times say about how to serve it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from turnout.errors import TurnoutError
from turnout.serving.batching.batch import join
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.sessions.session import Run
from turnout.serving.sessions.tensor import Array

_BUDGET_SECONDS = 20.0
"""Larger batches are left cold once warm-up has taken this long."""

_GIVE_UP = 8
"""Batches of this many times the best size so far are the last that are tried."""

_WORTHWHILE = 0.95
"""A larger batch pays if a row in it costs at most this much of what it costs in a smaller one."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What warm-up found.

    Attributes:
        seconds_by_rows: The quickest run of each batch size, in seconds; empty if there was nothing to run.
        bytes_per_row: Size of the inputs of one row.
        warning: Why there was nothing to run, or why a batch size could not be; "" if all went well.
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
    """Runs the sample at each batch size that will be used.

    Args:
        run: Runs the model.
        plan: Holds the sample.
        outputs: Names of all outputs.
        runs: Of each batch size; 0 skips warm-up.
        only_where_it_pays: Stop at batch sizes that will not be used, since rows in them cost as much as alone.
        clock: Seconds.
    """
    if not runs:
        return WarmUp(warning="warm-up is turned off")
    if plan.sample is None:
        return WarmUp(warning="no inputs were found that it runs on; a golden case would give them")
    began = clock()
    quickest: dict[int, float] = {}
    warning = ""
    for rows in _sizes(plan.max_rows):
        if clock() - began > _BUDGET_SECONDS:
            warning = f"batches of {rows} rows and more were left cold: warm-up had taken {_BUDGET_SECONDS:.0f} s"
            break
        inputs = join(plan, [plan.sample] * rows)
        try:
            # The first run of a shape pays for its memory; it warms, the others measure.
            quickest[rows] = min(_timed(run, inputs, outputs, clock) for _ in range(runs + 1))
        except TurnoutError as error:
            warning = f"warm-up with {rows} rows failed: {error.message}"
            break
        if only_where_it_pays and rows >= _GIVE_UP * best_rows(quickest):
            break
    return WarmUp(quickest, sum(a.nbytes for a in plan.sample.values()), warning)


def paying_plan(plan: BatchPlan, warmth: WarmUp) -> BatchPlan:
    """Returns `plan` with the most rows that are faster by the times of `warmth`: more would only add latency."""
    times = warmth.seconds_by_rows
    if plan.max_rows < 2 or len(times) < 2:
        return plan
    best = best_rows(times)
    largest = max(times)
    measured = f"1 row {times[1] * 1e3:.2f} ms, {largest} rows {times[largest] * 1e3:.2f} ms"
    if best == 1:
        return replace(plan, max_rows=0, reason=f"unbatched: batching does not pay here ({measured})")
    if best < min(largest, plan.max_rows):
        return replace(plan, max_rows=best, reason=f"{plan.reason}; more than {best} rows do not pay ({measured})")
    return plan


def best_rows(seconds_by_rows: Mapping[int, float]) -> int:
    """Returns the largest batch size that is faster, from the times of sizes in ascending order."""
    best = 1
    for rows, seconds in seconds_by_rows.items():
        if seconds / rows <= _WORTHWHILE * seconds_by_rows[best] / best:
            best = rows
    return best


def _sizes(max_rows: int) -> list[int]:
    sizes = [1]
    while sizes[-1] < max_rows:
        sizes.append(min(sizes[-1] * 2, max_rows))
    return sizes


def _timed(run: Run, inputs: Mapping[str, Array], outputs: Sequence[str], clock: Callable[[], float]) -> float:
    start = clock()
    run(inputs, outputs)
    return clock() - start
