"""Rules for weighted sums: matrix products, convolutions, pooling and other image operators. Pure."""

from collections.abc import Mapping, Sequence

from turnout.registry.onnx.graph import MICROSOFT_DOMAIN, STANDARD_DOMAIN
from turnout.serving.rowwise.call import NodeCall, Rule
from turnout.serving.rowwise.rules.elementwise import broadcast_rows
from turnout.serving.rowwise.sizes import ONE, Size, derived
from turnout.serving.rowwise.states import Mixed, NotRowWise, Rows, RunFails, Shared, State


def matmul_states(one: Shared | Rows, other: Shared | Rows) -> Rows:
    """Returns the product of two tensors as in NumPy's `matmul`. At least one must be made of rows.

    Raises:
        NotRowWise: It sums over rows, or multiplies each row with all others.
    """
    if one.shape is None or other.shape is None:
        raise NotRowWise("the rank of its inputs is not known before a run")
    left, right = _matrix(one, at_front=True), _matrix(other, at_front=False)
    assert left.shape is not None
    assert right.shape is not None
    if isinstance(left, Rows) and left.axis == left.rank - 1:
        raise NotRowWise("it sums over rows")
    if isinstance(right, Rows) and right.axis == right.rank - 2:
        raise NotRowWise("it sums over rows")
    rank = max(len(left.shape), len(right.shape))
    # Each factor is broadcast to the shape of the product, with size 1 along the axis that only the other factor has.
    parts = [_stretched(left, rank, rank - 1), _stretched(right, rank, rank - 2)]
    product = broadcast_rows(parts)
    dropped = [rank - 2] * (len(one.shape) == 1) + [rank - 1] * (len(other.shape) == 1)
    kept = [axis for axis in range(rank) if axis not in dropped]
    return product.with_shape(tuple(product.shape[axis] for axis in kept), kept.index(product.axis))


def _matrix(state: Shared | Rows, *, at_front: bool) -> Shared | Rows:
    """Returns a vector as the matrix that the operator takes it for."""
    assert state.shape is not None
    if not state.shape:
        raise NotRowWise("it multiplies a number")
    if len(state.shape) > 1:
        return state
    shape = (ONE, state.shape[0]) if at_front else (state.shape[0], ONE)
    if isinstance(state, Shared):
        return Shared(shape)
    return state.with_shape(shape, 1 if at_front else 0)


def _stretched(state: Shared | Rows, rank: int, summed: int) -> Shared | Rows:
    """Returns `state` with size 1 along the axis that is summed over."""
    assert state.shape is not None
    at = summed - rank + len(state.shape)
    shape = (*state.shape[:at], ONE, *state.shape[at + 1 :])
    return Shared(shape) if isinstance(state, Shared) else state.with_shape(shape, state.axis)


def _matmul(call: NodeCall) -> Sequence[State]:
    return [matmul_states(call.operand(0), call.operand(1))]


def _swapped(state: Shared | Rows) -> Shared | Rows:
    """Returns a tensor with its last two axes swapped."""
    if state.shape is None or len(state.shape) < 2:
        raise NotRowWise("it transposes a tensor that is not a matrix")
    shape = (*state.shape[:-2], state.shape[-1], state.shape[-2])
    if isinstance(state, Shared):
        return Shared(shape)
    last = state.rank - 1
    return state.with_shape(shape, {last: last - 1, last - 1: last}.get(state.axis, state.axis))


def _gemm(call: NodeCall) -> Sequence[State]:
    left, right = call.operand(0), call.operand(1)
    for state in (left, right):
        if state.shape is None or len(state.shape) != 2:
            raise NotRowWise("it multiplies tensors that are not matrices")
    product = matmul_states(
        _swapped(left) if call.integer("transA", 0) else left, _swapped(right) if call.integer("transB", 0) else right
    )
    if not call.has(2):
        return [product]
    added = call.operand(2)
    if added.shape is None or len(added.shape) > 2:
        raise NotRowWise("the rank of the tensor that it adds is not known before a run")
    return [broadcast_rows([product, added])]


def _fused_matmul(call: NodeCall) -> Sequence[State]:
    left, right = call.operand(0), call.operand(1)
    if call.integer("transBatchA", 0) or call.integer("transBatchB", 0):
        raise NotRowWise("it swaps batch axes")
    left = _swapped(left) if call.integer("transA", 0) and left.shape and len(left.shape) > 1 else left
    right = _swapped(right) if call.integer("transB", 0) and right.shape and len(right.shape) > 1 else right
    return [matmul_states(left, right)]


def _quantized_matmul(first: int, second: int, per_tensor: Sequence[int], any_shape: Sequence[int]) -> Rule:
    """Returns the rule for a product whose other inputs are scales and zero points."""

    def rule(call: NodeCall) -> Sequence[State]:
        left, right = call.operand(first), call.operand(second)
        call.shared(*per_tensor, *any_shape)
        # One scale per row of the left factor would be one per row of the batch.
        for index in per_tensor:
            if call.has(index) and call.given(index).shape not in ((), (ONE,)):
                raise NotRowWise(f"input {index} holds more than one number")
        if any_shape and not isinstance(right, Shared):
            raise NotRowWise("its scales belong to rows")
        return [matmul_states(left, right)]

    return rule


def _block_quantized(call: NodeCall) -> Sequence[State]:
    """Weights of a few bits with N columns: `com.microsoft.MatMulNBits` and similar operators."""
    rows = call.rows(0)
    call.shared(*range(1, len(call.inputs)))
    if rows.axis == rows.rank - 1:
        raise NotRowWise("it sums over rows")
    return [rows.with_dimension(rows.rank - 1, Size(call.integer("N", 0)))]


def _einsum(call: NodeCall) -> Sequence[State]:
    equation = call.text("equation", "").replace(" ", "")
    if "." in equation or not equation.isascii():
        raise NotRowWise("its equation leaves axes unnamed")
    if "->" not in equation:
        raise NotRowWise("its equation does not name the axes of its output")
    left, right = equation.split("->")
    terms = left.split(",")
    if len(terms) != len(call.inputs):
        raise NotRowWise("its equation does not have one term for each input")
    sizes: dict[str, Size] = {}
    batch: set[str] = set()
    layouts: set[tuple[Size, Size]] = set()
    for index, term in enumerate(terms):
        state = call.operand(index)
        if state.shape is None or len(term) != len(state.shape):
            raise NotRowWise("its equation does not name each axis")
        if isinstance(state, Rows):
            batch.add(term[state.axis])
            layouts.add(state.layout)
        for letter, size in zip(term, state.shape, strict=True):
            if not size.rows:
                sizes[letter] = size if sizes.get(letter, ONE) == ONE else sizes[letter]
    if len(batch) != 1 or len(layouts) != 1:
        raise NotRowWise("its inputs have their rows along different axes")
    (letter,) = batch
    for index, term in enumerate(terms):
        if term.count(letter) != isinstance(call.given(index), Rows):
            raise NotRowWise("it combines rows with a tensor that is not made of them")
    if right.count(letter) != 1:
        raise NotRowWise("it sums over rows")
    rows = next(state for state in call.inputs if isinstance(state, Rows))
    shape = tuple(rows.shape[rows.axis] if name == letter else sizes[name] for name in right)
    return [Rows(shape, right.index(letter), *rows.layout)]


def _first_axis(call: NodeCall) -> Rows:
    rows = call.rows(0)
    if rows.axis:
        raise NotRowWise("the batch axis is not its first axis, the only one along which it processes rows separately")
    if rows.rank < 3:
        raise NotRowWise("its input has no dimension besides rows and channels")
    return rows


def _over_places(call: NodeCall, rows: Rows, channels: Size) -> tuple[Size, ...]:
    """Returns the output shape of an operator that slides over the positions of an image."""
    how = [call.node.op_type, *(f"{k}={v}" for k, v in sorted(call.node.attributes.items()))]
    places = []
    for axis in range(2, rows.rank):
        size = _places(call, rows.shape[axis], axis - 2, rows.rank - 2)
        if size is None and not call.integer("ceil_mode", 0):  # ONNX counts a window that ONNX Runtime leaves out
            size = call.fresh(axis)
        if size is None or size.constant is None:
            shape = () if len(call.inputs) < 2 else call.given(1).shape
            kernel = "?" if shape is None else ",".join(map(str, shape))
            size = derived("over", *how, kernel, axis, rows.shape[axis])
        places.append(size)
    return (rows.shape[0], channels, *places)


def _places(call: NodeCall, size: Size, at: int, count: int) -> Size | None:
    """Returns the number of window positions along a dimension; None if a size is not known."""
    kernel = call.integers("kernel_shape")
    if kernel is None and len(call.inputs) > 1:
        shape = call.given(1).shape or ()
        kernel = tuple(k.constant for k in shape[2:] if k.constant is not None)
    rounded = call.text("auto_pad", "NOTSET") != "NOTSET" or call.integer("ceil_mode", 0)
    if size.constant is None or rounded or kernel is None or len(kernel) != count or "Transpose" in call.node.op_type:
        return None
    strides = call.integers("strides") or (1,) * count
    dilations = call.integers("dilations") or (1,) * count
    pads = call.integers("pads") or (0,) * 2 * count
    room = size.constant + pads[at] + pads[at + count] - dilations[at] * (kernel[at] - 1) - 1
    if room < 0:
        if call.node.op_type == "Conv":
            raise RunFails("its window is larger than its input")
        return None  # ONNX Runtime's pooling produces an output nevertheless
    return Size(room // strides[at] + 1)


def _convolution(weights: int, transposed: bool = False) -> Rule:
    """Returns the rule for a convolution whose other inputs are the same for every row.

    The weights are (output channels, ...), or (input channels, output channels, ...) if it is transposed.
    """

    def rule(call: NodeCall) -> Sequence[State]:
        rows = _first_axis(call)
        call.shared(*range(1, len(call.inputs)))
        kernel = call.given(weights)
        if kernel.shape is None or len(kernel.shape) != rows.rank:
            raise NotRowWise("the number of its output channels is not known before a run")
        channels = kernel.shape[1] * Size(call.integer("group", 1)) if transposed else kernel.shape[0]
        output = call.attribute("output_shape")
        if output is not None and len(call.integers("output_shape") or ()) != rows.rank - 2:
            raise NotRowWise("it fixes the size of its output along the batch axis")
        return [Rows(_over_places(call, rows, channels), 0, *rows.layout)]

    return rule


def _pool(call: NodeCall) -> Sequence[State]:
    rows = _first_axis(call)
    pooled = Rows(_over_places(call, rows, rows.shape[1]), 0, *rows.layout)
    made: list[State] = [pooled, Mixed("its second output numbers positions across all rows")]
    return made[: len(call.node.outputs)]


def _global_pool(call: NodeCall) -> Sequence[State]:
    rows = _first_axis(call)
    return [Rows((*rows.shape[:2], *[ONE] * (rows.rank - 2)), 0, *rows.layout)]


_PLACES_KEPT = frozenset({"half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"})
"""Coordinate transformations under which an axis that keeps its size keeps its elements."""


def _resize(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    if call.text("mode", "nearest") != "nearest" and (rows.axis or rows.rank < 4):
        # Kernels with fewer dimensions weight neighbours along all axes, and a weight of 0 still propagates NaN.
        raise NotRowWise("it interpolates along the batch axis")
    if call.opset < 11:  # Upsample, and the first version of Resize
        call.shared(1)
        scales = call.node.attributes.get("scales") if call.opset < 9 else None
        factors = list(scales) if isinstance(scales, tuple) else call.numbers(1)
        _check_factor(rows, [f if not isinstance(f, str) else None for f in factors], range(rows.rank))
        return [rows.with_shape(tuple(call.fresh(axis) for axis in range(rows.rank)), rows.axis)]
    place = call.text("coordinate_transformation_mode", "half_pixel")
    if place not in _PLACES_KEPT or call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotRowWise("what it does along the batch axis is not known")
    named = call.integers("axes")
    axes = range(rows.rank) if named is None else [axis % rows.rank for axis in named]
    call.shared(1, 2)
    if call.has(3) and call.given(3).shape != (Size(0),):
        wanted = call.numbers(3)
        if len(wanted) != len(axes):
            raise NotRowWise("it does not have one size for each axis")
        for axis, size in zip(axes, wanted, strict=True):
            if axis == rows.axis and size != rows.shape[axis]:
                raise NotRowWise("it stretches the batch axis")
            if axis != rows.axis:
                call.dimension(size, axis)
        sizes = dict(zip(axes, wanted, strict=True))
        shape = [
            call.dimension(sizes[a], a) if a in sizes and a != rows.axis else rows.shape[a] for a in range(rows.rank)
        ]
        return [rows.with_shape(tuple(shape), rows.axis)]
    _check_factor(rows, call.numbers(2), axes)
    shape = [call.fresh(a) if a in axes and a != rows.axis else rows.shape[a] for a in range(rows.rank)]
    return [rows.with_shape(tuple(shape), rows.axis)]


def _check_factor(rows: Rows, factors: Sequence[object], axes: Sequence[int]) -> None:
    if len(factors) != len(axes):
        raise NotRowWise("it does not have one scale for each axis")
    if any(axis == rows.axis and factor not in (1.0, ONE) for axis, factor in zip(axes, factors, strict=True)):
        raise NotRowWise("it stretches the batch axis")


def _sample_grid(call: NodeCall) -> Sequence[State]:
    rows, grid = _first_axis(call), call.rows(1)
    if grid.axis or grid.layout != rows.layout or grid.rank != rows.rank:
        raise NotRowWise("its inputs have their rows along different axes")
    return [Rows((*rows.shape[:2], *grid.shape[1:-1]), 0, *rows.layout)]


def _determinant(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    call.outside(rows, (rows.rank - 2, rows.rank - 1), "goes")
    return [rows.with_shape(rows.shape[:-2], rows.axis)]


def _inverse(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    call.outside(rows, (rows.rank - 2, rows.rank - 1), "goes")
    if rows.shape[-1] != rows.shape[-2]:
        raise NotRowWise("its matrices may not be square, and it then reads those of other rows")
    return [rows]


_STANDARD: Mapping[str, Rule] = {
    "AveragePool": _pool,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _convolution(1, transposed=True),
    "Det": _determinant,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalLpPool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "GridSample": _sample_grid,
    "LpPool": _pool,
    "MatMul": _matmul,
    "MatMulInteger": _quantized_matmul(0, 1, (2,), (3,)),
    "MaxPool": _pool,
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _quantized_matmul(0, 3, (1, 2, 6, 7), (4, 5)),
    "Resize": _resize,
    "Upsample": _resize,
}
_OF_ONNX_RUNTIME: Mapping[str, Rule] = {
    "FusedConv": _convolution(1),
    "FusedGemm": _gemm,
    "FusedMatMul": _fused_matmul,
    "Inverse": _inverse,
    "MatMulIntegerToFloat": _quantized_matmul(0, 1, (2, 4), (3, 5, 6)),
    "MatMulNBits": _block_quantized,
}
RULES: Mapping[tuple[str, str], Rule] = {
    **{(STANDARD_DOMAIN, name): rule for name, rule in _STANDARD.items()},
    **{(MICROSOFT_DOMAIN, name): rule for name, rule in _OF_ONNX_RUNTIME.items()},
}
