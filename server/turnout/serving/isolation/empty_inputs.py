"""Finds the dimensions of inputs that must not be 0, at all or unless others are. Pure.

Requests that violate this are refused, since operators would return old contents of memory, or end the process:

- `RoiAlign` uses the nearest row of an image for positions outside it. In an image without rows that is memory of
  something else, such as other requests.
- A matrix product over a dimension of 0 is 0, but integer kernels, `FusedMatMul`, `MatMul` that repeats its first
  factor, and the fusion of a product with a preceding `DequantizeLinear` leave their output uninitialised. (The fusion
  with a `Transpose` is switched off, see `turnout.serving.sessions.session`.)
- `Concat` and similar operators skip a part that is empty along another axis than the one that they join, but leave
  room for it, uninitialised.
- A reduction of an empty tensor along negative axes has other sizes than ONNX infers, so that a following operator may
  do one of these things, or end the process.
- ONNX Runtime fuses an `Add` with a following `LayerNormalization` (or its parts) if the sizes of both addends have the
  same names. The fused operator divides by the size of the second addend, which ends the process if it is 0.
"""

from collections.abc import Iterator, Mapping, Sequence

from turnout.registry.manifest.signature import Dimension, Signature
from turnout.registry.onnx.graph import STANDARD_DOMAIN, ModelGraph, Node, TensorType
from turnout.serving.batching.batchability import likely_axes
from turnout.serving.inputs.dimensions import InputDimension, dimensions_named
from turnout.serving.isolation.hazards import find_misjudged
from turnout.serving.isolation.origins import Scope, positive, walk
from turnout.serving.isolation.unwritten import Product, beside, products
from turnout.serving.rowwise.proof import follow_everywhere
from turnout.serving.rowwise.states import Rows

Dimensions = frozenset[InputDimension]

_ADDS = frozenset({"Add", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
"""Operators of ONNX's domain or `com.microsoft` that assume their first two inputs to be equal in size."""


def never_empty(model: ModelGraph) -> Dimensions:
    """Returns the dimensions of inputs that must not be 0.

    A tensor can be empty only if it is computed from inputs. A convolution fails on an empty image, so images computed
    from its output are never empty.
    """
    inputs = model.graph.inputs
    found: Dimensions = frozenset()
    for node, scope in walk(model):
        if node.operator == (STANDARD_DOMAIN, "RoiAlign"):
            found |= _of_picture(node, scope, inputs)
        found |= _beside_others(node, scope, inputs)
    for product in products(walk(model)):
        found |= _summed(product, inputs)
    for _, empty in find_misjudged(model):
        found |= empty.dimensions
    return found


def _of_picture(node: Node, scope: Scope, inputs: Mapping[str, TensorType]) -> Dimensions:
    picture = node.inputs[0]
    if scope.is_filled_picture(picture):
        return frozenset()
    return frozenset((name, axis) for name in scope.sources[picture] for axis in range(len(inputs[name].shape or ())))


def _beside_others(node: Node, scope: Scope, inputs: Mapping[str, TensorType]) -> Dimensions:
    """Returns the dimensions of inputs that must match a joined part whose size is known not to be 0."""
    found = Dimensions()
    for sizes in beside(node, scope):
        if any(map(positive, sizes)):
            found |= {*dimensions_named(inputs, {size for size in sizes if isinstance(size, str)})}
    return found


def _summed(product: Product, inputs: Mapping[str, TensorType]) -> Dimensions:
    """Returns the dimensions of inputs that a product sums over, or may sum over if that is not known."""
    sources = [product.scope.sources[name] for name in product.factors]
    if not all(sources) or any(map(positive, product.summed)):
        return frozenset()
    if named := frozenset(dimensions_named(inputs, [size for size in product.summed if isinstance(size, str)])):
        return named
    # If another dimension of a factor is 0, so is one of the product, in which nothing can be read.
    return frozenset(
        (name, axis)
        for name in frozenset[str]().union(*sources)
        for axis, size in enumerate(inputs[name].shape or ())
        if not isinstance(size, int) and size not in product.kept
    )


def in_step(model: ModelGraph, signature: Signature) -> Sequence[Sequence[InputDimension]]:
    """Returns groups of dimensions of inputs that must be 0 together or not at all.

    They are found by their names and by following rows. The graph need not keep rows apart as a whole: it is enough if
    they can be followed to a `Concat`.
    """
    joined: dict[Node, frozenset[str]] = {}
    found: list[Sequence[InputDimension]] = []
    for node, scope in walk(model):
        parts = scope.joined(node) or (node.inputs[:2] if node.op_type in _ADDS else ())
        sources = frozenset[str]().union(*map(scope.sources.__getitem__, parts))
        if len(sources) < 2 and node.op_type in _ADDS:
            continue
        if len(sources) > 1 and node.operator == (STANDARD_DOMAIN, "Concat"):
            joined[node] = sources
        groups = (sorted(dimensions_named(model.graph.inputs, names)) for names in _equal_names(node, scope))
        found += (group for group in groups if len(group) > 1 and group not in found)
    if not joined:
        return found
    for axes in likely_axes(signature):
        states = follow_everywhere(model, signature, axes)
        for node, sources in joined.items():
            group = [(source, axes[source]) for source in sorted(sources) if source in axes]
            if any(isinstance(state, Rows) for state in states.get(node, ())) and len(group) > 1 and group not in found:
                found.append(group)
    return found


def _equal_names(node: Node, scope: Scope) -> Iterator[set[Dimension]]:
    """Yields the names of dimensions that the node assumes to be equal."""
    if node.op_type in _ADDS:  # dimensions that may be broadcast have different names
        shapes = [shape for name in node.inputs[:2] if (shape := scope.types[name].shape) is not None]
        same_rank = len(set(map(len, shapes))) == 1
        dimensions = zip(*shapes, strict=True) if same_rank else iter(())
    else:
        dimensions = beside(node, scope)
    for sizes in dimensions:
        names: set[Dimension] = {size for size in sizes if isinstance(size, str)}
        if (len(names) == 1) == (node.op_type in _ADDS) and names:
            yield names
