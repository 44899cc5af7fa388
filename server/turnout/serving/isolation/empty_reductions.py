"""Follows what ONNX Runtime makes of reductions of empty tensors, whose sizes are not those that ONNX infers. Pure.

ONNX Runtime ignores the negative axes of a reduction of an empty tensor. The maxima of (2, 0) along axis -1 have the
sizes (2, 0), not (2, 1), so that operators are not safe only because the inferred sizes are.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from turnout.registry.manifest.signature import Dimension
from turnout.registry.onnx.graph import STANDARD_DOMAIN, ModelGraph, Node, TensorType
from turnout.serving.inputs.dimensions import InputDimension, dimensions_named
from turnout.serving.isolation.origins import Scope, filled, input_of, positive, walk
from turnout.serving.isolation.unwritten import emptied
from turnout.serving.rowwise.rules.elementwise import ELEMENTWISE

_ALL_AXES = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum"
_REDUCES = frozenset([*_ALL_AXES.split(), "ReduceSumSquare", "ArgMax", "ArgMin"])

_KEEPS_FIRST = frozenset(
    {"Clip", "CumSum", "DequantizeLinear", "Dropout", "LayerNormalization", "LogSoftmax", "QuantizeLinear", "Softmax"}
)
"""Operators whose first output has the sizes of their first input."""


@dataclass(frozen=True, slots=True)
class Empty:
    """What makes the tensor empty that is reduced.

    Attributes:
        dimensions: The dimensions of inputs of which one has to be 0, as far as inputs decide it.
        by_graph: Whether the graph may make it empty although no input is.
    """

    dimensions: frozenset[InputDimension]
    by_graph: bool

    def __or__(self, other: "Empty") -> "Empty":
        return Empty(self.dimensions | other.dimensions, self.by_graph or other.by_graph)


@dataclass(frozen=True, slots=True)
class _Actual:
    """The type of a tensor if something was empty, and what.

    With `any_rank`, not even the rank is as inferred.
    """

    type: TensorType
    empty: Empty
    any_rank: bool


@dataclass(frozen=True, slots=True)
class AfterEmpty:
    """A node that uses a tensor whose sizes are not as inferred if something was empty.

    Attributes:
        inferred: The tensors that it sees, with the inferred sizes.
        actual: The same with the actual sizes.
    """

    node: Node
    inferred: Scope
    actual: Scope
    empty: Empty


def after_empty(model: ModelGraph) -> Iterator[AfterEmpty]:
    """Yields the nodes that use a tensor whose sizes are not as inferred if a reduced tensor was empty."""
    steps = [*walk(model)]
    if not any(_stated_axes(node, scope) for node, scope in steps):
        return
    made_empty = emptied(steps)
    found: dict[str, _Actual] = {}
    before = -1
    while before < len(found):  # what a subgraph returns is known only after its nodes
        before = len(found)
        for node, scope in steps:
            _follow(node, scope, model, made_empty, found)
    for node, scope in steps:
        if seen := {name: found[name] for name in node.names_read() if name in found}:
            yield AfterEmpty(node, scope, _as_if(scope, seen), _union(seen))


def _follow(node: Node, scope: Scope, model: ModelGraph, made_empty: set[str], found: dict[str, _Actual]) -> None:
    """Records the outputs of a node, and the inputs of its subgraphs, that do not have the inferred sizes."""
    inner = [*node.inner_graphs()]
    names = [*node.names_read(), *(name for graph in inner for name in graph.outputs)]
    seen = {name: found[name] for name in names if name in found}
    axes = _stated_axes(node, scope)
    if not (seen or axes):
        return
    actual = _as_if(scope, seen)
    shapes: Sequence[Sequence[Dimension] | None]
    any_rank = any(one.any_rank for one in seen.values())
    if axes:
        data = node.inputs[0]
        reduced = actual.types[data].shape
        if reduced is None or (filled(reduced) and data not in found):
            return
        seen = seen | {data: _Actual(actual.types[data], _empty(data, reduced, scope, model, made_empty), any_rank)}
        shapes = [_reduced(reduced, axes, keepdims=node.attributes.get("keepdims", 1) != 0)]
        any_rank = any_rank or node.attributes.get("keepdims") == 0
    else:
        shapes = [_sizes(node, actual)]
    empty = _union(seen)
    if not (empty.dimensions or empty.by_graph):
        return
    for index, name in enumerate(node.outputs):
        shape = shapes[index] if index < len(shapes) else None
        kind = scope.types[name]
        # Of an optional tensor, a sequence and what ONNX Runtime's own operators return, no sizes are inferred.
        promised = not kind.element or scope.has_width(name)
        if shape is None and kind.shape is not None and not any_rank:
            shape = (None,) * len(kind.shape)
        if name and (promised if kind.shape is None else _promises_more(kind.shape, shape)):
            sizes = None if shape is None else tuple(shape)
            found[name] = _Actual(TensorType(kind.element, sizes), empty, any_rank)
    for graph in inner:
        for name, kind in graph.inputs.items():
            found.setdefault(name, _Actual(TensorType(kind.element), empty, any_rank=True))


def _as_if(scope: Scope, seen: Mapping[str, _Actual]) -> Scope:
    return scope.as_if(
        {name: one.type for name, one in seen.items()}, [name for name, one in seen.items() if one.any_rank]
    )


def _union(seen: Mapping[str, _Actual]) -> Empty:
    return functools.reduce(Empty.__or__, (one.empty for one in seen.values()))


def _stated_axes(node: Node, scope: Scope) -> tuple[int, ...]:
    """Returns the axes of a reduction; () if none is negative, or if the node is none.

    Axes that are not known before a run are given as -1.
    """
    if node.domain != STANDARD_DOMAIN or node.op_type not in _REDUCES:
        return ()
    stated = node.attributes.get("axes", node.attributes.get("axis", ()))
    axes = stated if isinstance(stated, tuple) else (stated,)
    if name := input_of(node, 1):
        values = scope.known[name].values
        axes = (-1,) if values is None or values.dtype.kind != "i" else tuple(values.reshape(-1).tolist())
    known = tuple(axis for axis in axes if isinstance(axis, int))
    return known if min(known, default=0) < 0 else ()


def _reduced(shape: Sequence[Dimension], axes: Sequence[int], *, keepdims: bool) -> Sequence[Dimension]:
    """Returns the sizes of a reduction of an empty tensor, as ONNX Runtime makes it."""
    if keepdims:
        return [1 if at in axes else size for at, size in enumerate(shape)]
    return [size for at, size in enumerate(shape) if at not in axes]


def _empty(name: str, shape: Sequence[Dimension], scope: Scope, model: ModelGraph, made_empty: set[str]) -> Empty:
    """Returns what makes a tensor of these sizes empty."""
    inputs = model.graph.inputs
    free = {size for size in shape if not positive(size)}
    named = frozenset(dimensions_named(inputs, {size for size in free if isinstance(size, str)}))
    if free != {(inputs[one].shape or ())[axis] for one, axis in named}:
        named = frozenset(
            (one, axis)
            for one in scope.sources[name]
            for axis, size in enumerate(inputs[one].shape or ())
            if not isinstance(size, int)
        )
    return Empty(named, name in made_empty or 0 in shape)


def _sizes(node: Node, scope: Scope) -> Sequence[Dimension] | None:
    """Returns the sizes of a node's first output; None if they are not known."""
    if node.domain != STANDARD_DOMAIN:
        return None
    shapes = [scope.types[name].shape for name in node.inputs if name]
    if node.op_type in _KEEPS_FIRST:
        return shapes[0]
    if node.op_type == "Shape":
        return None if scope.has_any_rank(node.inputs[0]) else scope.types[node.outputs[0]].shape
    if node.op_type == "Expand":
        shapes[1:] = [scope.types[node.outputs[0]].shape]
    elif node.op_type not in ELEMENTWISE | {"Concat"}:
        return None
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    rank = max(map(len, known))
    if node.op_type == "Concat":
        axis = node.attributes.get("axis")
        if not isinstance(axis, int) or not rank or any(len(shape) < rank for shape in known):
            return None
        return [
            sizes[0] if at != axis % rank and len({*sizes}) == 1 else None
            for at, sizes in enumerate(zip(*known, strict=True))
        ]
    aligned = zip(*((1,) * (rank - len(shape)) + shape for shape in known), strict=True)
    return [functools.reduce(_broadcast, sizes) for sizes in aligned]


def _broadcast(one: Dimension, other: Dimension) -> Dimension:
    if one == other or other == 1:
        return one
    if one == 1:
        return other
    return next((size for size in (one, other) if isinstance(size, int)), None)


def _promises_more(inferred: Sequence[Dimension], actual: Sequence[Dimension] | None) -> bool:
    """Returns whether the inferred sizes of a tensor say more than is true."""
    if actual is None or len(actual) != len(inferred):
        return True
    return any(one not in (None, other) for one, other in zip(inferred, actual, strict=True))
