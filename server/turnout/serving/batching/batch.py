"""What a batch is: which requests may share a run, how their inputs are put together and their outputs taken apart.

Pure functions of a `BatchPlan`; the queue and the threads are `turnout.serving.batching.batcher`'s.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from turnout.serving.batching.batchability import BatchPlan, sizes_of
from turnout.serving.sessions.tensor import Array, memory_of

_SHARED_VALUE_BYTES = 256
"""Inputs outside the batch are compared by value, so they must be small (a sampling rate, a threshold)."""


_KINDS = 256
"""Kinds of requests of which the line is remembered."""

Line = tuple[Hashable, ...]
"""What requests must have in common to share a run; they wait in one line."""


class BatchSizeMismatch(Exception):
    """A shared run gave an output of the wrong size: nobody knows which rows belong to which request."""


def shape_of(plan: BatchPlan, inputs: Mapping[str, Array]) -> tuple[Line, int] | None:
    """Returns the line that a request waits in, and its rows.

    Returns:
        None if the request runs alone: its version is unbatched, its batched inputs do not agree on the number of
        rows, it has no rows, an input outside the batch is too large to compare, or its sizes are not among those that
        it is proved for: dimensions of one symbol differ.
    """
    if plan.max_rows < 2:
        return None
    rows = -1
    common: list[Hashable] = []
    for name in sorted(inputs):
        array = inputs[name]
        axis = plan.input_axes.get(name)
        if axis is None:
            if array.nbytes > _SHARED_VALUE_BYTES or array.dtype == object:
                return None
            common.append((name, array.shape, array.tobytes()))
            continue
        shape = array.shape
        if rows not in (-1, shape[axis]):
            return None
        rows = shape[axis]
        common.append((name, shape[:axis], shape[axis + 1 :]))
    for group in plan.equal:
        if len({inputs[name].shape[axis] for name, axis in group}) > 1:
            return None
    if rows < 1 or (plan.sizes is not None and not plan.sizes.holds(sizes_of(inputs, plan.input_axes))):
        return None
    return tuple(common), rows


class Lines:
    """Finds the lines of requests, and remembers those that a request's kind alone decides."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[BatchPlan, Line | None, int, int]] = {}

    def of(self, plan: BatchPlan, inputs: Mapping[str, Array], kind: object) -> tuple[BatchPlan, Line | None, int, int]:
        """Returns the plan, and by it a request's line, None if it runs alone, its rows, and its inputs' bytes.

        Args:
            plan: In force.
            inputs: By name.
            kind: As of `InferenceRequest`.
        """
        known = self._known.get(kind)
        if known is not None and known[0] is plan:
            return known
        line, rows = shape_of(plan, inputs) or (None, 1)
        known = plan, line, rows, memory_of(inputs.values())
        # An input outside the batch is compared by its value, of which each request has its own; and sizes that are not
        # proved now may be soon.
        by_kind = plan.max_rows < 2 or (plan.sizes is None and inputs.keys() <= plan.input_axes.keys())
        if kind is not None and by_kind:
            if len(self._known) >= _KINDS:
                self._known.clear()
            self._known[kind] = known
        return known


def join(plan: BatchPlan, requests: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """Returns the inputs of one run for `requests` of one shape, in their order."""
    if len(requests) == 1:
        return requests[0]
    first = requests[0]
    return {
        name: np.concatenate([r[name] for r in requests], axis=plan.input_axes[name]) if name in plan.input_axes else a
        for name, a in first.items()
    }


def split(
    plan: BatchPlan, outputs: Mapping[str, Array], rows: Sequence[int], wanted: Sequence[Sequence[str]]
) -> list[list[Array]]:
    """Returns each request's own outputs out of those of the run, as views.

    Args:
        plan: That the run was made by.
        outputs: Of the run, by name.
        rows: Of each request, in the order they were joined.
        wanted: Names of the outputs of each request, in its order.

    Raises:
        BatchSizeMismatch: An output of a joined run does not add up; none of its outputs may be given to anybody.
    """
    if len(rows) == 1:
        return [[outputs[name] for name in wanted[0]]]
    total = sum(rows)
    for name, axis in plan.output_axes.items():
        array = outputs.get(name)
        if array is not None and (array.ndim <= axis or array.shape[axis] != total):
            got = f"{array.shape[axis]} rows" if array.ndim > axis else f"the shape {list(array.shape)}"
            raise BatchSizeMismatch(f"output {name} had {got} of {total}")
    answers: list[list[Array]] = []
    start = 0
    for count, names in zip(rows, wanted, strict=True):
        answers.append([_rows(outputs[name], plan.output_axes.get(name), start, start + count) for name in names])
        start += count
    return answers


def _rows(array: Array, axis: int | None, start: int, stop: int) -> Array:
    if axis is None:
        return array
    return array[(slice(None),) * axis + (slice(start, stop),)]
