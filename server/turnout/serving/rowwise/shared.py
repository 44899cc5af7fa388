"""Evaluates operators on tensors that no row affects (shapes, axes, pads), element by element. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from turnout.serving.rowwise import arithmetic
from turnout.serving.rowwise.call import NodeCall, normal
from turnout.serving.rowwise.sizes import ONE, ONE_ROW, Size, broadcast, product
from turnout.serving.rowwise.states import (
    MOST_ELEMENTS,
    Element,
    Elements,
    NotRowWise,
    Rows,
    Shared,
    State,
    constant,
    counts_rows,
    of_elements,
    unknown,
    vector,
)

_INT32, _INT64 = 6, 7  # numbers of ONNX's element types
_FLOAT, _DOUBLE = 1, 11
_BOOL = 9


def evaluate(call: NodeCall) -> Sequence[State]:
    """Returns the outputs of a node that has no input made of rows.

    Raises:
        NotRowWise: An output depends on the number of rows in a way that is not followed.
    """
    counting = any(isinstance(state, Shared) and state.counts_rows for state in call.inputs)
    rule = _RULES.get(call.node.op_type) if not call.node.domain else None
    try:
        found = None if rule is None else rule(call)
    except (_NotFollowed, NotRowWise):
        found = None
    results: Sequence[State] = [found] if isinstance(found, Shared | Rows) else found or []
    # A dependence on the number of rows must be visible in the outputs: as rows, or as elements.
    if results and not (counting and any(isinstance(s, Shared) and s.elements is None for s in results)):
        return results
    if counting:
        raise NotRowWise("it computes with the number of rows")
    return [_described(call, index) for index in range(len(call.node.outputs))]


class _NotFollowed(Exception):
    """Raised when the elements of a tensor cannot be followed."""


_Result = Shared | Rows | list[State]


def _described(call: NodeCall, output: int) -> Shared:
    """Describes an output by the results of shape inference."""
    shape = call.types[output].shape if output < len(call.types) else None
    if shape is None:
        return Shared()
    return unknown(tuple(call.fresh(axis, output) for axis in range(len(shape))))


def _elements(call: NodeCall, index: int) -> Elements:
    state = call.given(index)
    assert isinstance(state, Shared)
    if state.elements is not None:
        return state.elements
    sizes = None if state.shape is None else [size.constant for size in state.shape]
    if sizes is None or None in sizes or math.prod(s for s in sizes if s is not None) > MOST_ELEMENTS:
        raise _NotFollowed
    return np.full([s for s in sizes if s is not None], None, dtype=object)


def _constants(call: NodeCall, index: int) -> list[int]:
    return call.constants(index)


def _of(elements: Any) -> Shared:
    """Describes the result of a NumPy function: an object array, or a single element if it has no dimensions."""
    if not isinstance(elements, np.ndarray):
        bare = np.empty((), dtype=object)
        bare[()] = elements
        elements = bare
    if elements.size > MOST_ELEMENTS:
        raise _NotFollowed
    return of_elements(elements)


def _elementwise(call: NodeCall) -> Shared:
    operation = arithmetic.OPERATIONS[call.node.op_type]
    arrays = np.broadcast_arrays(*(_elements(call, i) for i in range(len(call.inputs))))
    if arrays[0].size > MOST_ELEMENTS:
        raise _NotFollowed
    if call.node.op_type in ("Min", "Max"):
        result = arrays[0]
        for other in arrays[1:]:
            result = np.frompyfunc(operation, 2, 1)(result, other)
        return _bounded(result)
    if call.node.op_type == "Mod" and call.integer("fmod", 0):
        raise _NotFollowed
    return _bounded(np.frompyfunc(operation, len(arrays), 1)(*arrays))


def _bounded(elements: Any) -> Shared:
    """Describes results of arithmetic. Numbers that do not fit into 32 bits are unknown, since it may use 32 bits."""
    return _of(np.frompyfunc(arithmetic.within_int32, 1, 1)(elements))


def _cast(call: NodeCall) -> Shared:
    target = call.integer("to", 0)
    if target in (_INT32, _INT64):
        convert: Callable[[Element], Element] = arithmetic.as_int32 if target == _INT32 else arithmetic.as_int64
    elif target in (_FLOAT, _DOUBLE):
        convert = arithmetic.as_fraction
    elif target == _BOOL:
        convert = arithmetic.as_truth
    else:
        raise _NotFollowed
    return _of(np.frompyfunc(convert, 1, 1)(_elements(call, 0)))


def _shape(call: NodeCall) -> Shared:
    state = call.given(0)
    assert state.shape is not None or isinstance(state, Shared)
    if state.shape is None:
        raise _NotFollowed
    return vector(state.shape[_bounds(call, len(state.shape))])


def shape_of_rows(call: NodeCall) -> Sequence[State]:
    """Evaluates `Shape` of a tensor made of rows."""
    rows = call.rows(0)
    return [vector(rows.shape[_bounds(call, rows.rank)])]


def size_of_rows(call: NodeCall) -> Sequence[State]:
    """Evaluates `Size` of a tensor made of rows."""
    return [_of(product(call.rows(0).shape))]


def _bounds(call: NodeCall, rank: int) -> slice:
    end = call.attribute("end")
    return slice(*slice(call.integer("start", 0), rank if end is None else call.integer("end", 0)).indices(rank)[:2])


def _size(call: NodeCall) -> Shared:
    state = call.given(0)
    if state.shape is None:
        raise _NotFollowed
    return _of(product(state.shape))


def _constant(call: NodeCall) -> Shared:
    tensor = call.tensor("value")
    if tensor is not None:
        if tensor.values is None:
            return Shared(tuple(map(Size, tensor.shape)))
        return constant(tensor.values)
    for name in ("value_int", "value_float", "value_ints", "value_floats"):
        value = call.attribute(name)
        if value is not None:
            return constant(np.array(value))
    raise _NotFollowed


def _gather(call: NodeCall) -> Shared:
    data = _elements(call, 0)
    axis = call.axis("axis", 0, data.ndim)
    where = call.given(1)
    assert isinstance(where, Shared)
    indices = np.array(_constants(call, 1), dtype=np.int64).reshape([_known(size) for size in where.shape or ()])
    if where.shape is None or np.any((indices < -data.shape[axis]) | (indices >= data.shape[axis])):
        raise _NotFollowed
    return _of(np.take(data, indices, axis=axis))


def _known(size: Size) -> int:
    if size.constant is None:
        raise _NotFollowed
    return size.constant


def _slice(call: NodeCall) -> Shared:
    data = _elements(call, 0)
    if call.opset >= 10:
        starts, ends = _constants(call, 1), _constants(call, 2)
        axes = _constants(call, 3) if call.has(3) else list(range(len(starts)))
        steps = _constants(call, 4) if call.has(4) else [1] * len(starts)
    else:
        starts, ends = list(call.integers("starts") or ()), list(call.integers("ends") or ())
        axes, steps = list(call.integers("axes") or range(len(starts))), [1] * len(starts)
    cut: list[slice] = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = normal(axis, data.ndim)
        # ONNX clamps like Python, except that with a negative step an end below -size means "up to the first".
        size = data.shape[at]
        stop = None if step < 0 and end < -size else end
        cut[at] = slice(0 if step < 0 and start < -size else start, stop, step)
    return _of(data[tuple(cut)])


def _concat(call: NodeCall) -> Shared:
    parts = [_elements(call, i) for i in range(len(call.inputs))]
    return _of(np.concatenate(parts, axis=call.axis("axis", 0, parts[0].ndim)))


def _squeeze(call: NodeCall) -> Shared:
    data = _elements(call, 0)
    axes = call.axes(1, data.ndim)
    return _of(np.squeeze(data, axis=axes))


def _unsqueeze(call: NodeCall) -> Shared:
    data = _elements(call, 0)
    named = call.integers("axes") if not call.has(1) else _constants(call, 1)
    if named is None:
        raise _NotFollowed
    return _of(np.expand_dims(data, tuple(named)))


def _reshape(call: NodeCall) -> Shared:
    data = _elements(call, 0)
    target = list(call.integers("shape") or ()) if call.opset < 5 else _constants(call, 1)
    if not call.integer("allowzero", 0):
        target = [size or data.shape[i] for i, size in enumerate(target)]
    return _of(data.reshape(target))


def _flatten(call: NodeCall) -> Shared:
    data = _elements(call, 0)
    axis = call.integer("axis", 1)
    at = axis + data.ndim if axis < 0 else axis
    return _of(data.reshape(math.prod(data.shape[:at]), -1))


def _transpose(call: NodeCall) -> Shared:
    data = _elements(call, 0)
    return _of(np.transpose(data, call.integers("perm")))


def _identity(call: NodeCall) -> Shared:
    state = call.given(0)
    assert isinstance(state, Shared)
    return state


def _reduced(operation: arithmetic.Operation) -> Callable[[NodeCall], Shared]:
    def reduce(call: NodeCall) -> Shared:
        data = _elements(call, 0)
        axes = call.axes(1, data.ndim)
        if axes == () or axes is None:
            if call.integer("noop_with_empty_axes", 0):
                return _of(data)
            axes = tuple(range(data.ndim))
        if any(not data.shape[axis] for axis in axes):
            raise _NotFollowed
        result: Any = data
        for axis in sorted(axes, reverse=True):
            folded: Any = _of(np.frompyfunc(operation, 2, 1).reduce(result, axis=axis)).elements
            result = np.expand_dims(folded, axis) if call.integer("keepdims", 1) else folded
        return _bounded(result)

    return reduce


def _split(call: NodeCall) -> list[State]:
    data = _elements(call, 0)
    axis = call.axis("axis", 0, data.ndim)
    sizes = _constants(call, 1) if call.has(1) else list(call.integers("split") or ())
    if not sizes:
        count = len(call.node.outputs)
        each = -(-data.shape[axis] // count)
        sizes = [each] * (count - 1) + [data.shape[axis] - each * (count - 1)]
    if sum(sizes) != data.shape[axis] or min(sizes) < 0:
        raise _NotFollowed
    return [_of(part) for part in np.split(data, np.cumsum(sizes)[:-1], axis=axis)]


def _range(call: NodeCall) -> Shared:
    bounds = [_of_one(call, i) for i in range(3)]
    if any(map(counts_rows, bounds)):
        raise NotRowWise("it counts the rows")
    start, limit, step = bounds
    numbers = [b.constant if isinstance(b, Size) else None for b in bounds]
    if None not in numbers:
        made = range(*(n for n in numbers if n is not None))
        if len(made) <= MOST_ELEMENTS:
            return constant(np.array(made, dtype=np.int64))
    if start == Size(0) and step == ONE and isinstance(limit, Size) and limit.is_size:
        return Shared((limit,))
    return Shared((call.fresh(0),))


def _of_one(call: NodeCall, index: int) -> Element:
    elements = _elements(call, index)
    if elements.size != 1:
        raise _NotFollowed
    found: Element = elements.reshape(-1)[0]
    return found


def _constant_of_shape(call: NodeCall) -> Shared | Rows:
    sizes = [call.dimension(e, i) if not counts_rows(e) else e for i, e in enumerate(call.numbers(0))]
    if any(map(counts_rows, sizes)):
        return _grown(sizes)
    shape = tuple(size for size in sizes if isinstance(size, Size))
    known = [size.constant for size in shape]
    tensor = call.tensor("value")
    values = np.zeros(1, np.float32) if tensor is None else tensor.values
    if None in known or values is None or math.prod(n for n in known if n is not None) > MOST_ELEMENTS:
        return Shared(shape)
    return constant(np.full([n for n in known if n is not None], values.reshape(-1)[0]))


def _grown(sizes: Sequence[Element]) -> Rows:
    """Describes a tensor in which all rows are equal and one of whose sizes depends on the number of rows."""
    growing = [i for i, size in enumerate(sizes) if counts_rows(size)]
    size = sizes[growing[0]]
    after = size / ONE_ROW if isinstance(size, Size) else None
    if len(growing) != 1 or after is None or after.rows or not all(isinstance(s, Size) for s in sizes):
        raise NotRowWise("its shape does not grow with the rows along one dimension")
    return Rows(tuple(s for s in sizes if isinstance(s, Size)), growing[0], after=after)


def _expand(call: NodeCall) -> Shared | Rows:
    call.shared(0)
    state = call.given(0)
    if state.shape is None:
        raise _NotFollowed
    wanted = call.numbers(1)
    rank = max(len(wanted), len(state.shape))
    sizes: list[Element] = []
    for axis in range(rank):
        at, target = axis - (rank - len(state.shape)), axis - (rank - len(wanted))
        size = state.shape[at] if at >= 0 else ONE
        element: Element = wanted[target] if target >= 0 else ONE
        if counts_rows(element):
            if size != ONE:
                raise NotRowWise("it repeats more than one slice per row")
            sizes.append(element)
        else:
            sizes.append(
                broadcast(size, element) if isinstance(element, Size) and element.is_size else call.fresh(axis)
            )
    if any(map(counts_rows, sizes)):
        return _grown(sizes)
    shape = tuple(size for size in sizes if isinstance(size, Size))
    known = [size.constant for size in shape]
    if isinstance(state, Shared) and state.elements is not None and None not in known:
        return _of(np.broadcast_to(state.elements, [n for n in known if n is not None]))
    return Shared(shape)


def _tile(call: NodeCall) -> Shared | Rows:
    state = call.given(0)
    repeats = call.numbers(1)
    if state.shape is None or len(repeats) != len(state.shape):
        raise _NotFollowed
    if not any(map(counts_rows, repeats)):
        known = [r.constant if isinstance(r, Size) else None for r in repeats]
        if None in known:
            raise _NotFollowed
        return _of(np.tile(_elements(call, 0), [n for n in known if n is not None]))
    call.shared(0)
    sizes: list[Element] = []
    for axis, (size, repeat) in enumerate(zip(state.shape, repeats, strict=True)):
        if counts_rows(repeat) and size != ONE:
            raise NotRowWise("it repeats more than one slice per row")
        sizes.append(arithmetic.multiply(size, repeat) if isinstance(repeat, Size) else call.dimension(None, axis))
    return _grown(sizes)


_RULES: Mapping[str, Callable[[NodeCall], _Result]] = {
    **dict.fromkeys(arithmetic.OPERATIONS, _elementwise),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": _identity,
    "Range": _range,
    "ReduceMax": _reduced(arithmetic.largest),
    "ReduceMin": _reduced(arithmetic.smallest),
    "ReduceProd": _reduced(arithmetic.multiply),
    "ReduceSum": _reduced(arithmetic.add),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
