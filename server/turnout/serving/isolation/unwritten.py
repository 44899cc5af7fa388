"""Finds operators that leave part of their output as it was in memory, such as values of other requests. Pure.

- A matrix product over a dimension of 0 is 0, but integer kernels, `FusedMatMul`, and the fusion of a product with a
  preceding `DequantizeLinear` leave their output uninitialised. So does `MatMul` from the second matrix on that it
  multiplies the same first factor by, and from the second element on of a product with a vector. (The fusion with a
  `Transpose` is switched off, see `turnout.serving.sessions.session`.)
- `Concat` and similar operators skip a part that is empty along another axis than the one that they join, but leave
  room for it, uninitialised.
- Classifiers of two classes with `PROBIT` write only one of two scores.

Where the dimension is one of an input, requests are refused (`turnout.serving.isolation.empty_inputs`). Graphs may also
make such a dimension themselves: by a `Slice` that leaves nothing, for example. `find_unwritten` finds these.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from turnout.registry.manifest.signature import Dimension
from turnout.registry.onnx.graph import CLASSICAL_DOMAIN, MICROSOFT_DOMAIN, STANDARD_DOMAIN, ModelGraph, Node
from turnout.serving.isolation.origins import RECURRENT, Origin, Scope, filled, input_of, may_be, positive, walk
from turnout.serving.isolation.windows import may_exceed_image, numbers

_FACTORS: Mapping[tuple[str, str], tuple[int, int]] = {
    (STANDARD_DOMAIN, "Gemm"): (0, 1),
    (STANDARD_DOMAIN, "MatMul"): (0, 1),
    (STANDARD_DOMAIN, "MatMulInteger"): (0, 1),
    (STANDARD_DOMAIN, "QLinearMatMul"): (0, 3),
    (MICROSOFT_DOMAIN, "FusedMatMul"): (0, 1),
    (MICROSOFT_DOMAIN, "MatMulInteger16"): (0, 1),
    (MICROSOFT_DOMAIN, "MatMulIntegerToFloat"): (0, 1),
    (MICROSOFT_DOMAIN, "DynamicQuantizeMatMul"): (0, 1),
    (MICROSOFT_DOMAIN, "QGemm"): (0, 3),
}
"""Matrix products, with the indices of both factors among the inputs."""

_ENDS_A_FUSION = frozenset({"Conv", "Einsum", "Flatten", "Reshape", *(name for _, name in _FACTORS)})
"""Operators that a preceding `DequantizeLinear` is not moved past. ONNX Runtime drops or moves many others that lie
between it and a product, such as `Cast`, `Identity` and `Mul` by a constant, and then fuses both."""

_CLASSIFIERS = frozenset({"LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"})

_SELECTS = frozenset(
    {"CenterCropPad", "Compress", "Loop", "NonMaxSuppression", "NonZero", "Split"}
    | {"SplitToSequence", "StringSplit", "Tokenizer"}
)
"""Operators whose output may be empty although no input is."""

_SIZED = {"ConstantOfShape": 0, "Expand": 1, "OneHot": 1, "Pad": 1, "Range": 1, "Tile": 1, "TopK": 1}
"""Operators with an output of the size that an input states, and the index of that input."""

_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool", "NhwcMaxPool", "QLinearAveragePool"})
_TAKES_SIZES = frozenset({*_SIZED, "Reshape", "Resize", "Squeeze", "Unsqueeze", "Upsample"})
"""Operators of whose inputs only the first has elements that the output contains."""

_UNKNOWN = "unk__"
"""Beginning of the names that ONNX's shape inference gives to sizes that it does not know."""

_SUMS_NOTHING = "leaves what was in memory in its output where it sums over nothing"
_JOINS_NOTHING = "leaves what was in memory in its output where one of the tensors that it joins is empty"

Step = tuple[Node, Scope]
"""A node, with the tensors that it sees."""


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product that leaves its output uninitialised if it sums over nothing.

    Attributes:
        factors: Names of both factors.
        summed: Size of the dimension that is summed over, of each factor as far as it is known.
        kept: Sizes of their other dimensions.
    """

    node: Node
    scope: Scope
    factors: tuple[str, str]
    summed: Sequence[Dimension]
    kept: Sequence[Dimension]


def products(steps: Iterable[Step]) -> Iterator[Product]:
    """Yields the products among the nodes of a model that leave their output uninitialised if they sum over nothing."""
    quantized: set[str] = set()
    for node, scope in steps:
        if (indices := _FACTORS.get(node.operator)) is not None:
            one, other = (node.inputs[index] for index in indices)
            fused = node.op_type not in ("Gemm", "MatMul") or not quantized.isdisjoint((one, other))
            if fused or (node.op_type == "MatMul" and _repeats_first(scope.types[one].shape, scope.types[other].shape)):
                yield product_of(node, scope, (one, other))
        goes_on = node.op_type not in _ENDS_A_FUSION and not quantized.isdisjoint(node.names_read())
        if node.op_type == "DequantizeLinear" or goes_on:
            quantized.update(node.outputs)


def _repeats_first(one: Sequence[Dimension] | None, other: Sequence[Dimension] | None) -> bool:
    """Returns whether the first factor of a product may be repeated for several matrices of the other, or the other is
    a vector. Sizes that are not known are taken for equal, since those of an attention are.
    """
    if one is None or other is None:
        return False
    if len(other) < 2:
        return len(one) > 1
    return len(one) < len(other) != 2 or any(
        mine != theirs and theirs != 1 and _is_known(mine) and _is_known(theirs)
        for mine, theirs in zip(one[-3::-1], other[-3::-1], strict=False)
    )


def _is_known(size: Dimension) -> bool:
    return size is not None and not str(size).startswith(_UNKNOWN)


def product_of(node: Node, scope: Scope, factors: tuple[str, str]) -> Product:
    """Returns the product that a node is, by the sizes that its factors have in `scope`."""
    left, right = (scope.types[name].shape for name in factors)
    summed, kept = list[Dimension](), list[Dimension]()
    for shape, last in (
        (left, not node.attributes.get("transA")),
        (right, bool(node.attributes.get("transB")) or len(right or ()) < 2),
    ):
        if shape:
            at = len(shape) - (1 if last or len(shape) < 2 else 2)
            summed.append(shape[at])
            kept += shape[:at] + shape[at + 1 :]
    return Product(node, scope, factors, summed, kept)


def beside(node: Node, scope: Scope) -> Iterator[tuple[Dimension, ...]]:
    """Yields the sizes of the tensors that a node joins, along one axis after another, but not the one that it joins.

    Tensors of unknown rank are left out. An axis that is not known may be any, so that nothing is yielded.
    """
    shapes = [shape for name in scope.joined(node) if (shape := _sizes(name, scope))]
    axis = node.attributes.get("axis")
    if not node.attributes.get("new_axis"):
        if not isinstance(axis, int):
            return iter(())
        shapes = [tuple(size for at, size in enumerate(shape) if at != axis % len(shape)) for shape in shapes]
    return zip(*shapes, strict=False)


def _sizes(name: str, scope: Scope) -> tuple[Dimension, ...] | None:
    """Returns the sizes of a tensor. Those of an image that are not known are given as 1, since they are not 0."""
    shape = scope.types[name].shape
    if shape is None or not scope.is_picture(name):
        return shape
    return shape[:2] + tuple(size if isinstance(size, int) else 1 for size in shape[2:])


def find_unwritten(model: ModelGraph) -> str | None:
    """Returns the first operator that may leave part of its output as it was in memory, as a sentence, although no
    input of a request is empty. None if there is none.
    """
    steps = [*walk(model)]
    made_empty = emptied(steps)
    named = {size for kind in model.graph.inputs.values() for size in kind.shape or () if isinstance(size, str)}

    def may_be_0(size: Dimension) -> bool:
        return not positive(size) and size not in named

    for product in products(steps):
        may_sum_nothing = 0 in product.summed or not made_empty.isdisjoint(product.factors)
        if may_sum_nothing and all(map(may_be_0, product.summed)):
            return f"{product.node} {_SUMS_NOTHING}"
    for node, scope in steps:
        if node.domain == CLASSICAL_DOMAIN and node.op_type in _CLASSIFIERS:
            if node.attributes.get("post_transform") == "PROBIT":
                return f"{node} leaves what was in memory in place of the second of two scores"
        elif _joins(node) and _parts_differ(node, scope, made_empty, may_be_0):
            return f"{node} {_JOINS_NOTHING}"
    return None


def _parts_differ(node: Node, scope: Scope, made_empty: set[str], may_be_0: Callable[[Dimension], bool]) -> bool:
    """Returns whether one of the tensors that a node joins may be empty, of a request that is not, and another not."""
    if node.op_type == "ConcatFromSequence" and not scope.follows(node.inputs[0]):
        return True
    parts = scope.joined(node)
    if len({*parts}) < 2 or made_empty.isdisjoint(parts):
        return False
    return any(scope.types[name].shape is None for name in parts) or any(
        any(map(may_be_0, sizes)) and not _equal(sizes) for sizes in beside(node, scope)
    )


def unwritten_after_empty(node: Node, inferred: Scope, actual: Scope, factors: tuple[str, str] | None) -> str:
    """Returns how a node leaves part of its output unwritten only by the actual sizes of its inputs; "" if it does not.

    `factors` are those of `Product`, if the node is one.
    """
    if factors is not None:
        summed = product_of(node, actual, factors).summed
        differ = summed != product_of(node, inferred, factors).summed
        return _SUMS_NOTHING if differ and not any(map(positive, summed)) else ""
    return _JOINS_NOTHING if _joins(node) and _joins_other_sizes(node, inferred, actual) else ""


def _joins_other_sizes(node: Node, inferred: Scope, actual: Scope) -> bool:
    shapes = [actual.types[name].shape for name in {*actual.joined(node)}]
    if len(shapes) < 2:
        return False
    if None in shapes or len({len(shape or ()) for shape in shapes}) > 1:
        return True
    known = [*beside(node, inferred)]
    return any(
        sizes not in known and not _equal(sizes) and not all(map(positive, sizes)) for sizes in beside(node, actual)
    )


def _equal(sizes: Sequence[Dimension]) -> bool:
    return None not in sizes and len({*sizes}) == 1


def _joins(node: Node) -> bool:
    return node.operator in {
        (STANDARD_DOMAIN, "Concat"),
        (STANDARD_DOMAIN, "ConcatFromSequence"),
        (MICROSOFT_DOMAIN, "QLinearConcat"),
    }


def emptied(steps: Sequence[Step]) -> set[str]:
    """Returns the tensors that may be empty although no input is."""
    found: set[str] = set()
    before = -1
    while before < len(found):  # what a subgraph returns is known only after its nodes
        before = len(found)
        for node, scope in steps:
            if node.op_type in RECURRENT or node.op_type in ("Shape", "Size"):
                continue  # recurrent operators end the process rather than return nothing
            inner = [*node.inner_graphs()]
            read = node.inputs[:1] if node.op_type in _TAKES_SIZES else node.inputs
            passed = [*read, *(name for graph in inner for name in graph.outputs)]
            if not found.isdisjoint(passed) or _empties(node, scope):
                found.update(name for name in node.outputs if not filled(scope.types[name].shape))
                found.update(name for graph in inner for name in graph.inputs)
    return found


def _empties(node: Node, scope: Scope) -> bool:
    if node.op_type in _SELECTS:
        return True
    if node.op_type == "Slice":
        return not _keeps_the_first(node, scope)
    if node.op_type in _POOLS:
        return may_exceed_image(node, scope, least=1)
    if node.op_type in ("Resize", "Upsample"):
        factors = [scope.known[name] for name in node.inputs[1:3] if name]
        return not node.inputs[3:] and any(may_be(known, lambda values: values < 1) for known in factors)
    if node.op_type == "Pad" and "pads" in node.attributes:
        return any(pad < 0 for pad in numbers(node, "pads", -1, 0))
    if (index := _SIZED.get(node.op_type)) is not None:
        least = 0 if node.op_type == "Pad" else 1
        known = scope.known[input_of(node, index)]
        # No model states a size of 0 itself, so that constants are only checked if they are known.
        return known.origin is Origin.VALUE or (known.values is not None and bool(np.any(known.values < least)))
    return False


def _keeps_the_first(node: Node, scope: Scope) -> bool:
    """Returns whether a `Slice` keeps at least the first element along each axis."""
    if len(node.inputs) == 1:  # up to operator set 9
        starts, ends = (numbers(node, name, 1, 0) for name in ("starts", "ends"))
        return not any(starts) and min(ends, default=1) > 0
    first, last, step = (scope.known[input_of(node, index)].values for index in (1, 2, 4))
    if first is None or last is None or (len(node.inputs) > 4 and step is None):
        return False
    return not np.any(first) and bool(np.all(last > 0)) and (step is None or bool(np.all(step > 0)))
