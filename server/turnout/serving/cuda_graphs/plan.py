"""Decides which batch sizes of a version are captured as CUDA graphs, or why none are. Pure.

A captured graph reads and writes the same memory at each launch, so its shapes never change. There is one graph for
each *bucket*: 1, 2, 4, 8, ... rows. Requests and batches of other sizes are padded to the next bucket with copies of
their last row, and the added rows are cut from the outputs. That is correct if rows are independent, which batching has
proved. ONNX Runtime's conditions are those of its documentation, "Using CUDA Graphs in the CUDA EP"
(onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#using-cuda-graphs-in-the-cuda-ep): no control flow,
all nodes on the device, tensors only, constant shapes and addresses, and no runs from several threads.
"""

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from turnout.registry.manifest.signature import DataType, Signature
from turnout.registry.onnx.graph import CONTROL_FLOW, ModelGraph
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.inputs.rows import doubled_up_to
from turnout.serving.sessions.tensor import Array

MOST_BUFFER_BYTES = 256 * 1024 * 1024
"""Maximum size in bytes of the inputs and outputs of all graphs of a version, each on the host and on the device."""


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """Which batch sizes are captured.

    Attributes:
        buckets: Number of rows of each graph, ascending; () if nothing is captured.
        shapes: Shape of each input with one row.
        input_axes: Batch axis of each input that has rows.
        output_axes: Batch axis of each output that has rows.
    """

    buckets: tuple[int, ...]
    reason: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    input_axes: Mapping[str, int] = field(default_factory=dict)
    output_axes: Mapping[str, int] = field(default_factory=dict)

    def rows_of(self, inputs: Mapping[str, Array]) -> int | None:
        """Returns the number of rows of inputs that a graph may run; None if names or shapes differ from the captured.

        Inputs without rows count as one row.
        """
        if inputs.keys() != self.shapes.keys():
            return None
        rows = None
        for name, array in inputs.items():
            expected, axis = self.shapes[name], self.input_axes.get(name)
            if axis is None:
                if array.shape != expected:
                    return None
                continue
            shape = array.shape
            if shape[:axis] != expected[:axis] or shape[axis + 1 :] != expected[axis + 1 :] or len(shape) <= axis:
                return None
            if rows is not None and rows != shape[axis]:
                return None
            rows = shape[axis]
        return 1 if rows is None else rows

    def bucket(self, rows: int) -> int | None:
        """Returns the smallest bucket of at least `rows` rows; None if there is none."""
        index = bisect.bisect_left(self.buckets, rows)
        return self.buckets[index] if rows >= 1 and index < len(self.buckets) else None

    def within(self, bytes_per_row: int, most: int = MOST_BUFFER_BYTES) -> "GraphPlan":
        """Returns the plan with as many of the smaller buckets as fit in `most` bytes of inputs and outputs."""
        kept: list[int] = []
        for rows in self.buckets:
            if bytes_per_row * (sum(kept) + rows) > most:
                break
            kept.append(rows)
        if not kept:
            return off(f"inputs and outputs of one row take {bytes_per_row:,} bytes, more than {most:,}")
        return replace(self, buckets=tuple(kept), reason=_captured(kept))


NO_GRAPHS = GraphPlan((), "")
"""The plan for versions for which graphs were not requested."""


def off(reason: str) -> GraphPlan:
    """Returns a plan that captures nothing."""
    return GraphPlan((), f"off: {reason}")


def obstacle(signature: Signature, graph: ModelGraph) -> str:
    """Returns why a model cannot be captured, as far as that is known before it is loaded; "" if nothing is."""
    for spec in (*signature.inputs, *signature.outputs):
        if spec.dtype in (DataType.STRING, DataType.BFLOAT16):
            return f"{spec.name} is of {spec.dtype.value}, which cannot be bound to a device here"
    flow = next((node for node in graph.graph.all_nodes() if node.op_type in CONTROL_FLOW), None)
    if flow is not None:
        return f"it has control flow ({flow.op_type})"
    return ""


def plan_graphs(signature: Signature, plan: BatchPlan) -> GraphPlan:
    """Returns which batch sizes of a version that batches by `plan` are captured."""
    sample = plan.sample
    if sample is None:
        return off("no inputs were found that it runs on; a golden case would give them")
    axes = plan.input_axes
    if plan.max_rows < 2 and not axes:  # a bucket of one row is never padded, so nothing has to be proved for it
        axes = {name: 0 for name, array in sample.items() if array.shape[:1] == (1,)}
    for spec in signature.inputs:
        if spec.name not in sample:
            continue
        for axis, dimension in enumerate(spec.shape):
            if not isinstance(dimension, int) and axes.get(spec.name) != axis:
                called = f" ({dimension})" if dimension else ""
                return off(f"dimension {axis} of input {spec.name}{called} is free and is not the batch dimension")
    shapes = {name: array.shape for name, array in sample.items()}
    if plan.max_rows < 2:
        return GraphPlan((1,), _captured([1]), shapes, axes, plan.output_axes)
    if plan.sizes is not None:
        return off("its rows are proved to be independent for some sizes only")
    whole = [spec.name for spec in signature.outputs if spec.name not in plan.output_axes]
    if whole:
        return off(f"output {whole[0]} has no batch dimension: rows added as padding might affect it")
    buckets = doubled_up_to(plan.max_rows)
    return GraphPlan(tuple(buckets), _captured(buckets), shapes, axes, plan.output_axes)


def _captured(buckets: list[int]) -> str:
    rows = ", ".join(map(str, buckets))
    return f"captured for {rows} {'row' if buckets == [1] else 'rows'}, proved against plain runs"
