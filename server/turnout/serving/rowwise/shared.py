"""Evaluates operators on tensors that no row affects (shapes, axes, pads), element by element. Pure."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    as_size,
    constant,
    counts_rows,
    integers,
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
    sizes = None if state.shape is None else integers(state.shape)
    if sizes is None or math.prod(sizes) > MOST_ELEMENTS:
        raise _NotFollowed
    return np.full(sizes, None, dtype=object)


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


def evaluate_shape(call: NodeCall) -> list[State]:
    """Evaluates `Shape`, also of a tensor made of rows."""
    sizes = _sizes(call)
    return [vector(sizes[call.integer("start", 0) : call.integer("end", len(sizes))])]


def evaluate_size(call: NodeCall) -> list[State]:
    """Evaluates `Size`, also of a tensor made of rows."""
    return [_of(product(_sizes(call)))]


def _sizes(call: NodeCall) -> tuple[Size, ...]:
    if (sizes := call.given(0).shape) is None:
        raise _NotFollowed
    return sizes


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
    sizes = integers(call.given(1).shape or ())
    indices = np.array(call.constants(1), dtype=np.int64)
    if sizes is None or np.any((indices < -data.shape[axis]) | (indices >= data.shape[axis])):
        raise _NotFollowed
    return _of(np.take(data, indices.reshape(sizes), axis=axis))


def _slice(call: NodeCall) -> Shared:
    data = _elements(call, 0)
    parts: list[slice] = [slice(None)] * data.ndim
    for axis, *cut in cuts(call):
        at = normal(axis, data.ndim)
        if (numbers := integers(cut)) is None:
            raise _NotFollowed
        parts[at] = python_slice(data.shape[at], *numbers)
    return _of(data[tuple(parts)])


def cuts(call: NodeCall) -> list[tuple[int, Element, Element, Element]]:
    """Returns the axis, start, end and step of each part that a `Slice` takes."""
    if call.opset < 10:
        starts: Sequence[Element] = [Size(start) for start in call.integers("starts") or ()]
        ends: Sequence[Element] = [Size(end) for end in call.integers("ends") or ()]
        axes: Sequence[int] = call.integers("axes") or range(len(starts))
    else:
        starts, ends = call.numbers(1), call.numbers(2)
        axes = call.constants(3) if call.has(3) else range(len(starts))
    steps = call.numbers(4) if call.opset >= 10 and call.has(4) else [ONE] * len(starts)
    return list(zip(axes, starts, ends, steps, strict=True))


def python_slice(size: int, start: int, end: int, step: int) -> slice:
    """Returns the slice that takes the same part of a dimension of a known size as `Slice` does.

    ONNX clamps like Python, except that with a negative step an end below -size means "up to the first".
    """
    return slice(0 if step < 0 and start < -size else start, None if step < 0 and end < -size else end, step)


def _concat(call: NodeCall) -> Shared:
    parts = [_elements(call, i) for i in range(len(call.inputs))]
    return _of(np.concatenate(parts, axis=call.axis("axis", 0, parts[0].ndim)))


def _squeeze(call: NodeCall) -> Shared:
    data = _elements(call, 0)
    axes = call.axes(1, data.ndim)
    return _of(np.squeeze(data, axis=axes))


def _unsqueeze(call: NodeCall) -> Shared:
    data = _elements(call, 0)
    if (named := call.stated_axes(1)) is None:
        raise _NotFollowed
    return _of(np.expand_dims(data, tuple(named)))


def _reshape(call: NodeCall) -> Shared:
    data = _elements(call, 0)
    target = list(call.integers("shape") or ()) if call.opset < 5 else call.constants(1)
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
    sizes = call.constants(1) if call.has(1) else list(call.integers("split") or ())
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
    if (numbers := integers(bounds)) is not None and len(made := range(*numbers)) <= MOST_ELEMENTS:
        return constant(np.array(made, dtype=np.int64))
    starts_at_zero = (start, step) == (Size(0), ONE)
    return Shared(((as_size(limit) if starts_at_zero else None) or call.fresh(0),))


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
    known = integers(shape)
    tensor = call.tensor("value")
    values = np.zeros(1, np.float32) if tensor is None else tensor.values
    if known is None or values is None or math.prod(known) > MOST_ELEMENTS:
        return Shared(shape)
    return constant(np.full(known, values.reshape(-1)[0]))


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
    sizes: list[Element] = []
    for axis, (own, element) in enumerate(expanded(state.shape, wanted)):
        if counts_rows(element):
            if own != ONE:
                raise NotRowWise("it repeats more than one slice per row")
            sizes.append(element)
        else:
            target = as_size(element)
            sizes.append(call.fresh(axis) if target is None else broadcast(own, target))
    if any(map(counts_rows, sizes)):
        return _grown(sizes)
    known = integers(sizes)
    if isinstance(state, Shared) and state.elements is not None and known is not None:
        return _of(np.broadcast_to(state.elements, known))
    return Shared(tuple(size for size in sizes if isinstance(size, Size)))


def expanded(shape: Sequence[Size], wanted: Sequence[Element]) -> Iterator[tuple[Size, Element]]:
    """Yields, for each axis of the result of an `Expand`, the size of the input and the size that is wanted."""
    rank = max(len(shape), len(wanted))
    return zip([ONE] * (rank - len(shape)) + [*shape], [ONE] * (rank - len(wanted)) + [*wanted], strict=True)


def _tile(call: NodeCall) -> Shared | Rows:
    state = call.given(0)
    repeats = call.numbers(1)
    if state.shape is None or len(repeats) != len(state.shape):
        raise _NotFollowed
    if not any(map(counts_rows, repeats)):
        if (known := integers(repeats)) is None:
            raise _NotFollowed
        return _of(np.tile(_elements(call, 0), known))
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
    "Shape": evaluate_shape,
    "Size": evaluate_size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
