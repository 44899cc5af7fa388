"""Forms batches: decides which requests may share a run, and splits the outputs.

Pure functions of a `BatchPlan`. The queue and the threads are in `turnout.serving.batching.batcher`.
"""

from collections.abc import Hashable, Mapping, Sequence

from turnout.serving.batching.batchability import BatchPlan, sizes_of
from turnout.serving.inputs.rows import part
from turnout.serving.sessions.tensor import Array, memory_of

_SHARED_VALUE_BYTES = 256
"""Maximum size of an input outside the batch. Such inputs (a sampling rate, a threshold) are compared by value."""


_KINDS = 256
"""Maximum number of request kinds whose line is cached."""

Line = tuple[Hashable, ...]
"""The properties that requests must share to run together; such requests wait in one line."""


class BatchSizeMismatch(Exception):
    """Raised when the outputs of a shared run cannot be divided among its requests, such as when a size is wrong."""


def shape_of(plan: BatchPlan, inputs: Mapping[str, Array]) -> tuple[Line, int] | None:
    """Returns the line that a request waits in and its number of rows; None if the request runs alone.

    That is so if its version is unbatched, its batched inputs disagree on the number of rows, it has no rows, an input
    outside the batch is too large to compare, dimensions that share a symbol differ, or batching is not proved for its
    sizes.
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
    """Finds the lines of requests and caches those that depend only on the request's kind."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[BatchPlan, Line | None, int, int]] = {}

    def of(self, plan: BatchPlan, inputs: Mapping[str, Array], kind: object) -> tuple[BatchPlan, Line | None, int, int]:
        """Returns the plan, the request's line (None if it runs alone), its rows, and the bytes of its inputs."""
        known = self._known.get(kind)
        if known is not None and known[0] is plan:
            return known
        line, rows = shape_of(plan, inputs) or (None, 1)
        known = plan, line, rows, memory_of(inputs.values())
        # Not cached: lines that depend on the value of an input outside the batch, which differs between requests, and
        # plans with proved sizes, since more sizes may be proved soon.
        by_kind = plan.max_rows < 2 or (plan.sizes is None and inputs.keys() <= plan.input_axes.keys())
        if kind is not None and by_kind:
            if len(self._known) >= _KINDS:
                self._known.clear()
            self._known[kind] = known
        return known


def split(
    plan: BatchPlan, outputs: Mapping[str, Array], rows: Sequence[int], wanted: Sequence[Sequence[str]]
) -> list[list[Array]]:
    """Returns the outputs of each request as views of a run's outputs.

    `rows` and `wanted` are the number of rows and the names of the outputs of each request, in the order in which they
    were joined.

    Raises:
        BatchSizeMismatch: An output of a shared run has the wrong size; none of the run's outputs may be used.
    """
    if len(rows) == 1:
        return [[outputs[name] for name in wanted[0]]]
    if wrong := _wrong_size(plan, outputs, sum(rows)):
        raise BatchSizeMismatch(wrong)
    answers: list[list[Array]] = []
    start = 0
    for count, names in zip(rows, wanted, strict=True):
        answers.append([part(outputs[name], plan.output_axes.get(name), start, start + count) for name in names])
        start += count
    return answers


def explains_mismatch(plan: BatchPlan, outputs: Mapping[str, Array], rows: int) -> bool:
    """Returns whether a request explains why a run that it shared did not add up, by its outputs when it runs alone.

    The graph proves that a request which ONNX accepts has as many rows in its outputs as in its inputs. ONNX Runtime
    may run others nevertheless, since it rewrites graphs. Without a proof, such a request only shows that rows depend
    on values.
    """
    return plan.proved and bool(_wrong_size(plan, outputs, rows))


def _wrong_size(plan: BatchPlan, outputs: Mapping[str, Array], rows: int) -> str:
    """Returns which output does not have this number of rows, as a sentence; "" if all have."""
    for name, axis in plan.output_axes.items():
        array = outputs.get(name)
        if array is not None and (array.ndim <= axis or array.shape[axis] != rows):
            got = f"{array.shape[axis]} rows" if array.ndim > axis else f"the shape {list(array.shape)}"
            return f"output {name} had {got} of {rows}"
    return ""
