"""Rules for operators that work along axes: sums, extremes, sorting, normalization. Pure."""

from collections.abc import Mapping, Sequence

from turnout.registry.onnx.graph import MICROSOFT_DOMAIN, STANDARD_DOMAIN
from turnout.serving.rowwise.call import NodeCall, Rule
from turnout.serving.rowwise.rules.elementwise import broadcast_rows
from turnout.serving.rowwise.sizes import ONE, Size
from turnout.serving.rowwise.states import NotRowWise, Rows, State


def _reduce(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    axes = call.axes(1, rows.rank)
    if not axes:
        if call.integer("noop_with_empty_axes", 0):
            return [rows]
        raise NotRowWise("it reduces along all axes, including the batch axis")
    call.outside(rows, axes, "reduces")
    return [_without(rows, axes, keep=bool(call.integer("keepdims", 1)))]


def _without(rows: Rows, axes: Sequence[int], *, keep: bool) -> Rows:
    if keep:
        shape = tuple(ONE if axis in axes else size for axis, size in enumerate(rows.shape))
        return rows.with_shape(shape, rows.axis)
    kept = [axis for axis in range(rows.rank) if axis not in axes]
    return rows.with_shape(tuple(rows.shape[axis] for axis in kept), kept.index(rows.axis))


def _arg(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    axis = call.axis("axis", 0, rows.rank)
    call.outside(rows, (axis,), "looks for the extreme")
    return [_without(rows, (axis,), keep=bool(call.integer("keepdims", 1)))]


def _top_k(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    axis = call.axis("axis", -1, rows.rank)
    call.outside(rows, (axis,), "sorts")
    if call.opset < 10:
        size = Size(call.integer("k", 1))
    else:
        (count,) = call.numbers(1)
        size = call.dimension(count, axis)
    return [rows.with_dimension(axis, size)] * len(call.node.outputs)


def _cumulate(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    axes = [axis + rows.rank if axis < 0 else axis for axis in call.constants(1)]
    call.outside(rows, axes, "adds up")
    return [rows]


def _softmax(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    if call.opset >= 13:
        call.outside(rows, (call.axis("axis", -1, rows.rank),), "normalises")
    elif call.axis("axis", 1, rows.rank) <= rows.axis:
        raise NotRowWise("it normalises over all axes from one on, including the batch axis")
    return [rows]


def _along_axis(default: int) -> Rule:
    """Returns the rule for an operator that changes values along one axis and keeps the shape."""

    def rule(call: NodeCall) -> Sequence[State]:
        rows = call.rows(0)
        call.outside(rows, (call.axis("axis", default, rows.rank),), "normalises")
        return [rows]

    return rule


def _batch_normalization(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    if call.integer("training_mode", 0) or any(call.node.outputs[1:]):
        raise NotRowWise("it is in training mode: it uses the mean and variance of the batch")
    if call.opset < 9 and (not call.integer("spatial", 1) or (call.opset < 7 and not call.integer("is_test", 0))):
        raise NotRowWise("it may use the mean and variance of the batch")
    if rows.rank < 2:
        raise NotRowWise("its input has no channels")
    if rows.axis != 1:
        call.shared(1, 2, 3, 4)
        return [rows]
    for index in range(1, 5):  # each row is a channel with its own parameters
        own = call.rows(index)
        if own.rank != 1 or own.layout != rows.layout:
            raise NotRowWise("its channels are made of rows, and their numbers are not")
    return [rows]


def _layer_normalization(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    call.shared(1, 2)
    axis = call.axis("axis", -1, rows.rank)
    if rows.axis >= axis:
        raise NotRowWise("it normalises along the batch axis")
    for weights in (call.given(index) for index in (1, 2) if call.has(index)):
        if weights.shape is None or len(weights.shape) > rows.rank:
            raise NotRowWise("the rank of its scale is not known before a run")
        broadcast_rows([rows, weights])
    mean = rows.with_shape((*rows.shape[:axis], *[ONE] * (rows.rank - axis)), rows.axis)
    return [rows, mean, mean][: len(call.node.outputs)]


def _skip_normalization(call: NodeCall) -> Sequence[State]:
    """`com.microsoft.Skip(Simplified)LayerNormalization`: adds (rows, length, hidden) and the same or (1, length,
    hidden).
    """
    weights = range(2, len(call.inputs))
    call.shared(*weights)
    both = broadcast_rows([call.rows(0), call.operand(1)])
    if both.axis == both.rank - 1 or both.rank != call.rows(0).rank:
        raise NotRowWise("it normalises along the batch axis")
    if any(call.node.outputs[1:3]):
        raise NotRowWise("its mean and variance are not analysed")
    return [both] * len(call.node.outputs)


def _channel_normalization(first_only: bool) -> Rule:
    """Returns the rule for a normalization of images (rows, channels, positions...).

    Args:
        first_only: Whether it normalizes over positions, so that the batch axis must be the first; otherwise it
            normalizes over channels only.
    """

    def rule(call: NodeCall) -> Sequence[State]:
        rows = call.rows(0)
        call.shared(*range(1, len(call.inputs)))
        if (first_only and rows.axis) or rows.axis == 1 or rows.rank < 3 - (not first_only):
            raise NotRowWise("the batch axis is not its first axis")
        return [rows]

    return rule


def _mean_variance(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    axes = call.integers("axes") or (0, 2, 3)
    if call.opset < 9:
        axes = (0, 2, 3) if call.integer("across_channels", 0) == 0 else tuple(range(rows.rank))
    call.outside(rows, [axis % rows.rank for axis in axes], "normalises")
    return [rows]


def _fourier(call: NodeCall) -> Sequence[State]:
    """DFT, whose last axis contains real and imaginary parts."""
    rows = call.rows(0)
    call.shared(1)
    if call.opset >= 20:
        (axis,) = call.constants(2) if call.has(2) else (-2,)
    else:
        axis = call.integer("axis", 1)
    axis = axis % rows.rank
    call.outside(rows, (axis, rows.rank - 1), "transforms")
    last = rows.rank - 1
    return [rows.with_dimension(axis, call.fresh(axis)).with_dimension(last, call.fresh(last))]


_REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)

_STANDARD: Mapping[str, Rule] = {
    **dict.fromkeys(_REDUCTIONS.split(), _reduce),
    "ArgMax": _arg,
    "ArgMin": _arg,
    "BatchNormalization": _batch_normalization,
    "CumSum": _cumulate,
    "DFT": _fourier,
    "GroupNormalization": _channel_normalization(first_only=True),
    "Hardmax": _softmax,
    "InstanceNormalization": _channel_normalization(first_only=True),
    "LRN": _channel_normalization(first_only=False),
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _softmax,
    "LpNormalization": _along_axis(-1),
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _layer_normalization,
    "SimplifiedLayerNormalization": _layer_normalization,
    "Softmax": _softmax,
    "TopK": _top_k,
}
RULES: Mapping[tuple[str, str], Rule] = {
    **{(STANDARD_DOMAIN, name): rule for name, rule in _STANDARD.items()},
    (MICROSOFT_DOMAIN, "SkipLayerNormalization"): _skip_normalization,
    (MICROSOFT_DOMAIN, "SkipSimplifiedLayerNormalization"): _skip_normalization,
}
