"""Rules for operators that move, cut, join or repeat elements, which may move the batch axis. Pure."""

from collections.abc import Mapping, Sequence

from turnout.registry.onnx.graph import STANDARD_DOMAIN
from turnout.serving.rowwise.call import NodeCall, Rule, normal
from turnout.serving.rowwise.shared import cuts, evaluate_shape, evaluate_size, expanded, python_slice
from turnout.serving.rowwise.sizes import ONE, Size, broadcast, derived, product
from turnout.serving.rowwise.states import (
    Element,
    NotRowWise,
    Rows,
    RunFails,
    Shared,
    State,
    as_size,
    counts_rows,
    integers,
    regrouped,
)

_WHOLE = 10**9
"""Ends of slices from here on are past the end of any dimension; exporters write such numbers."""


def _reshape(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    wanted: list[Element] = list(map(Size, call.integers("shape") or ())) if call.opset < 5 else call.numbers(1)
    if not call.integer("allowzero", 0):
        wanted = [rows.shape[i] if size == Size(0) and i < rows.rank else size for i, size in enumerate(wanted)]
    return [regrouped(rows, _target(call, rows, wanted))]


def _target(call: NodeCall, rows: Rows, wanted: Sequence[Element]) -> tuple[Size, ...]:
    """Returns the sizes that `wanted` describes, one of which may be -1 for the remaining elements.

    A number that is not known in advance may turn out to be 0 or -1. After the batch axis that does not matter, since
    each row keeps its elements in any arrangement.
    """
    left = [i for i, size in enumerate(wanted) if size == Size(-1)]
    if len(left) > 1:
        raise NotRowWise("its shape has -1 twice")
    growing = [i for i, size in enumerate(wanted) if counts_rows(size)]
    if any(not isinstance(wanted[i], Size) for i in growing) or len(growing) > 1:
        raise NotRowWise("its shape depends on the number of rows in a way that is not analysed")
    unknown = [i for i, size in enumerate(wanted) if as_size(size) is None and i not in left]
    sizes = [as_size(size) or call.fresh(i) for i, size in enumerate(wanted)]
    batch = growing[0] if growing else left[0] if left else None
    if batch is None:
        raise NotRowWise("its shape is fixed, which is right for one number of rows only")
    if any(i < batch for i in unknown) or (unknown and not growing):
        raise NotRowWise("its shape is not known before a run")
    for i in left:
        rest = product(rows.shape) / product(size for at, size in enumerate(sizes) if at != i)
        if rest is not None and not unknown:
            sizes[i] = rest
        elif i < batch or not growing:
            raise NotRowWise("what -1 stands for in its shape is not known before a run")
    return tuple(sizes)


def _flatten(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    axis = call.integer("axis", 1)
    axis = axis if axis == rows.rank else normal(axis, rows.rank)
    return [regrouped(rows, (product(rows.shape[:axis]), product(rows.shape[axis:])))]


def _squeeze(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    axes = call.axes(1, rows.rank)
    if axes is None:
        raise NotRowWise("it drops every dimension of size 1, as the batch axis is for one row")
    call.outside(rows, axes, "drops a dimension")
    for axis in axes:
        if rows.shape[axis].constant not in (1, None):
            raise RunFails(f"it drops a dimension of size {rows.shape[axis]}")
    kept = [axis for axis in range(rows.rank) if axis not in axes]
    return [rows.with_shape(tuple(rows.shape[axis] for axis in kept), kept.index(rows.axis))]


def _unsqueeze(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    if (named := call.stated_axes(1)) is None:
        raise NotRowWise("it does not say which axes it adds")
    rank = rows.rank + len(named)
    added = {normal(axis, rank) for axis in named}
    old = [axis for axis in range(rank) if axis not in added]
    shape = [ONE] * rank
    for axis, size in zip(old, rows.shape, strict=True):
        shape[axis] = size
    return [rows.with_shape(tuple(shape), old[rows.axis])]


def _transpose(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    order = [normal(axis, rows.rank) for axis in call.integers("perm") or range(rows.rank - 1, -1, -1)]
    if sorted(order) != list(range(rows.rank)):
        raise NotRowWise("its order of axes is not a permutation")
    return [rows.with_shape(tuple(rows.shape[axis] for axis in order), order.index(rows.axis))]


def _expand(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    wanted = call.numbers(1)
    axis = rows.axis + max(len(wanted) - rows.rank, 0)
    sizes: list[Size] = []
    for at, (own, element) in enumerate(expanded(rows.shape, wanted)):
        target = as_size(element)
        if at == axis:
            if element not in (ONE, own):
                raise NotRowWise("it stretches the batch axis")
            sizes.append(own)
        elif counts_rows(element):
            raise NotRowWise("it repeats the rows once for each row")
        else:
            sizes.append(call.fresh(at) if target is None else broadcast(own, target))
    return [rows.with_shape(tuple(sizes), axis)]


def _tile(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    repeats = call.numbers(1)
    if call.opset < 6 or len(repeats) != rows.rank or repeats[rows.axis] != ONE:
        raise NotRowWise("it repeats the batch axis")
    shape = list(rows.shape)
    for axis, repeat in enumerate(repeats):
        if axis != rows.axis:
            shape[axis] = rows.shape[axis] * repeat if isinstance(repeat, Size) else call.fresh(axis)
            call.dimension(shape[axis], axis)
    return [rows.with_shape(tuple(shape), rows.axis)]


def _pad(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    call.shared(2)
    pads: list[Element]
    if call.opset < 11:
        pads = [Size(pad) for pad in call.integers("pads") or call.integers("paddings") or ()]
    else:
        pads = call.numbers(1)
    axes = [normal(axis, rows.rank) for axis in call.constants(3)] if call.has(3) else list(range(rows.rank))
    if len(pads) != 2 * len(axes):
        raise NotRowWise("it does not have two pads for each axis")
    shape = list(rows.shape)
    for before, after, axis in zip(pads[: len(axes)], pads[len(axes) :], axes, strict=True):
        if counts_rows(before) or counts_rows(after):
            raise NotRowWise("its pads depend on the number of rows")
        if axis == rows.axis:
            if (before, after) != (Size(0), Size(0)):
                raise NotRowWise("it pads the batch axis")
            continue
        if (numbers := integers((shape[axis], before, after))) is not None:
            shape[axis] = Size(sum(numbers))
        else:
            known = isinstance(before, Size) and isinstance(after, Size)
            shape[axis] = derived("pad", shape[axis], before, after) if known else call.fresh(axis)
    return [rows.with_shape(tuple(shape), rows.axis)]


def _slice(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    shape = list(rows.shape)
    for axis, start, end, step in cuts(call):
        at = normal(axis, rows.rank)
        size = rows.shape[at]
        past_the_end = isinstance(end, Size) and end.constant is not None and end.constant >= _WHOLE
        if (start, step) == (Size(0), ONE) and (end == size or past_the_end):
            continue
        if at == rows.axis:
            raise NotRowWise("it takes a part of the batch axis")
        if any(map(counts_rows, (start, end, step))):
            raise NotRowWise("where it cuts depends on the number of rows")
        numbers = integers((size, start, end, step))
        if numbers is not None and numbers[3]:
            shape[at] = Size(len(range(*python_slice(*numbers).indices(numbers[0]))))
        elif all(isinstance(number, Size) for number in (start, end, step)):
            shape[at] = derived("slice", shape[at], start, end, step)
        else:
            shape[at] = call.fresh(at)
    return [rows.with_shape(tuple(shape), rows.axis)]


def _split(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    axis = call.axis("axis", 0, rows.rank)
    call.outside(rows, (axis,), "cuts")
    count = len(call.node.outputs)
    stated: list[Element] = list(map(Size, call.integers("split") or ()))
    sizes = call.numbers(1) if call.has(1) else stated or [None] * count
    if len(sizes) != count:
        raise NotRowWise("it does not have as many sizes as outputs")
    made = []
    for output, element in enumerate(sizes):
        if counts_rows(element):
            raise NotRowWise("where it cuts depends on the number of rows")
        made.append(rows.with_dimension(axis, as_size(element) or call.fresh(axis, output)))
    return made


def _concat(call: NodeCall) -> Sequence[State]:
    parts = [call.rows(i) for i in range(len(call.inputs))]
    first = parts[0]
    axis = call.axis("axis", 1, first.rank)
    call.outside(first, (axis,), "joins tensors")
    for part in parts:
        if (part.rank, part.axis, part.layout) != (first.rank, first.axis, first.layout):
            raise NotRowWise("it joins tensors that have their rows along different axes")
    sizes = [part.shape[axis] for part in parts]
    numbers = integers(sizes)
    return [first.with_dimension(axis, derived("concat", *sizes) if numbers is None else Size(sum(numbers)))]


def _gather(call: NodeCall) -> Sequence[State]:
    data, indices = call.operand(0), call.operand(1)
    if data.shape is None or indices.shape is None:
        raise NotRowWise("the rank of its inputs is not known before a run")
    axis = call.axis("axis", 0, len(data.shape))
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    if isinstance(data, Shared):
        rows = call.rows(1)
        return [rows.with_shape(shape, axis + rows.axis)]
    call.shared(1)
    call.outside(data, (axis,), "picks slices")
    if data.axis > axis and call.types and call.types[0].element == "string":
        raise NotRowWise("of each slice of strings, ONNX Runtime copies only the first, which belongs to one row")
    return [data.with_shape(shape, data.axis + (len(indices.shape) - 1 if data.axis > axis else 0))]


def _gather_elements(call: NodeCall) -> Sequence[State]:
    data, indices = call.operand(0), call.rows(1)
    axis = call.axis("axis", 0, indices.rank)
    if isinstance(data, Shared):
        if indices.axis != axis:
            raise NotRowWise("which slice it picks from depends on the position of a row")
        return [indices]
    call.outside(data, (axis,), "picks elements")
    _meet(data, indices)
    return [indices]


def _scatter_elements(call: NodeCall) -> Sequence[State]:
    data, indices, updates = call.rows(0), call.rows(1), call.rows(2)
    call.outside(data, (call.axis("axis", 0, data.rank),), "writes elements")
    _meet(data, indices)
    _meet(data, updates)
    return [data]


def _meet(one: Rows, other: Rows) -> None:
    if (one.axis, one.layout) != (other.axis, other.layout):
        raise NotRowWise("its inputs have their rows along different axes")


def _gather_nd(call: NodeCall) -> Sequence[State]:
    data, indices = call.operand(0), call.rows(1)
    shared = call.integer("batch_dims", 0)
    if data.shape is None:
        raise NotRowWise("the rank of its input is not known before a run")
    if indices.axis == indices.rank - 1:
        raise NotRowWise("its indices are made of several rows")
    depth = indices.shape[-1].constant
    if depth is None:
        raise NotRowWise("the length of its index vectors is not known before a run")
    if isinstance(data, Rows):
        _meet(data, indices)
        if data.axis >= shared:
            raise NotRowWise("it picks along the batch axis")
    elif shared:
        raise NotRowWise("which slice it picks from depends on the position of a row")
    shape = (*indices.shape[:-1], *data.shape[shared + depth :])
    return [indices.with_shape(shape, indices.axis)]


def _one_hot(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    call.shared(1, 2)
    axis = call.axis("axis", -1, rows.rank + 1)
    depth = call.numbers(1)[0]
    shape = (*rows.shape[:axis], call.dimension(depth, axis), *rows.shape[axis:])
    return [rows.with_shape(shape, rows.axis + (axis <= rows.axis))]


def _triangle(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    call.shared(1)
    call.outside(rows, (rows.rank - 2, rows.rank - 1), "keeps a triangle")
    return [rows]


def _rearranged_blocks(call: NodeCall) -> Sequence[State]:
    """DepthToSpace and SpaceToDepth, whose batch axis is the first."""
    rows = call.rows(0)
    if rows.axis or rows.rank != 4:
        raise NotRowWise("the batch axis is not its first axis")
    side = call.integer("blocksize", 1)
    widens = call.node.op_type == "DepthToSpace"
    shape = list(rows.shape)
    for axis, factor in ((1, side * side), (2, side), (3, side)):
        grows = widens == (axis > 1)
        size = rows.shape[axis] * Size(factor) if grows else rows.shape[axis] / Size(factor)
        shape[axis] = size if size is not None else call.fresh(axis)
    return [rows.with_shape(tuple(shape), 0)]


def _reverse_sequence(call: NodeCall) -> Sequence[State]:
    rows, lengths = call.rows(0), call.rows(1)
    batch, time = call.axis("batch_axis", 1, rows.rank), call.axis("time_axis", 0, rows.rank)
    if rows.axis != batch or time == batch or lengths.rank != 1 or lengths.layout != rows.layout:
        raise NotRowWise("the batch axis is not the one whose lengths it takes")
    return [rows]


def _columns_to_image(call: NodeCall) -> Sequence[State]:
    rows = call.rows(0)
    call.shared(1, 2)
    if rows.axis:
        raise NotRowWise("the batch axis is not its first axis")
    sides = [call.dimension(element, axis + 2) for axis, element in enumerate(call.numbers(1))]
    block = product(call.dimension(element, 1) for element in call.numbers(2))
    channels = rows.shape[1] / block
    return [rows.with_shape((rows.shape[0], channels if channels is not None else call.fresh(1), *sides), 0)]


RULES: Mapping[tuple[str, str], Rule] = {
    (STANDARD_DOMAIN, name): rule
    for name, rule in {
        "Col2Im": _columns_to_image,
        "Concat": _concat,
        "DepthToSpace": _rearranged_blocks,
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "GatherElements": _gather_elements,
        "GatherND": _gather_nd,
        "OneHot": _one_hot,
        "Pad": _pad,
        "Reshape": _reshape,
        "ReverseSequence": _reverse_sequence,
        "ScatterElements": _scatter_elements,
        "Shape": evaluate_shape,
        "Size": evaluate_size,
        "Slice": _slice,
        "SpaceToDepth": _rearranged_blocks,
        "Split": _split,
        "Squeeze": _squeeze,
        "Tile": _tile,
        "Transpose": _transpose,
        "Trilu": _triangle,
        "Unsqueeze": _unsqueeze,
    }.items()
}
