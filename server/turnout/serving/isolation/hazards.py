"""Finds the operator of a graph by which a request can end the process that runs it. Pure.

Two kinds: operators that ONNX Runtime crashes or hangs on for some values or sizes of their inputs, and operators that
make as much of memory or time as a value of a request says. What was tried, and what became of it, is in
docs/decisions/0037. Sizes that follow from the sizes of a request are no hazard: the bound on messages bounds them.

A tensor is followed from where it comes:

    constant    the same for every request; its value is known where it is small
    size        zero or more, computed from the sizes of inputs: no value of a request decides it
    value       a value of a request has a part in it
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.registry.onnx.graph import STANDARD_DOMAIN, Attribute, Graph, GraphTensor, ModelGraph, Node, TensorType

_FIRST_IR_WITH_DEFAULTS = 4

_MICROSOFT = "com.microsoft"
_KNOWN_DOMAINS = frozenset({STANDARD_DOMAIN, "ai.onnx.ml", _MICROSOFT, "com.microsoft.nchwc", "ai.onnx.preview"})
"""Domains of operators that ONNX Runtime brings itself."""

_SAME_VALUES = frozenset(
    {"Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose", "Expand", "Tile", "Gather", "Slice"}
)
"""Operators whose output holds no values but those of their first input, whatever else they are given."""

_INT64 = 7
_WIDE_TYPES = frozenset({1, _INT64, 11})
"""Element types, by ONNX's number, that a size keeps its sign in: float32, int64, float64."""

_NON_NEGATIVE = frozenset(
    {"Add", "Mul", "Div", "Max", "Min", "Concat", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "Range", "Mod"}
    | {"CumSum", "ConstantOfShape", "Floor", "Ceil", "Round", "Sqrt", "Abs"}
)
"""Operators that make nothing negative of what is not, besides `_SAME_VALUES`."""

_BOUNDED = frozenset(
    {"ArgMax", "ArgMin", "NonZero", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"}
    | {"Xor", "IsNaN", "IsInf"}
)
"""Operators whose outputs are flags or positions: at most what the sizes of their inputs allow, whatever the values."""

_SIZED_BY: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),  # as many as there are: scales came second before operator set 11
    "STFT": (1, 3),
    "Tile": (1, 2),
    "Upsample": (1,),
}
"""By operator: inputs whose values say how much of memory or time it takes."""

_MICROSOFT_SIZED_BY: Mapping[str, tuple[int, ...]] = {
    "BeamSearch": (1, 2, 3, 4),
    "CropAndResize": (3,),
    "GreedySearch": (1, 2),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Sampling": (1, 2),
    "WhisperBeamSearch": (1, 2, 3, 4),
}

_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "AttnLSTM"})
_ATTENTION_RANK = 4
_LEAST_MAXIMUM = 127
"""What every integer type can hold."""

_GREAT = 2**31
"""A constant beyond it, times a size, may not fit into 64 bits: 3 * 6148914691236517205 is -1."""

_COUNTED_ROUNDS = 10**6
"""A loop of more rounds is not meant to run them all: it ends by its condition, which values may decide."""

_VOLUME_RANK = 5


class Origin(IntEnum):
    """What decides a tensor's values; the greater one decides what is made of two."""

    CONSTANT = 0
    SIZE = 1
    VALUE = 2


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """What is known of a tensor.

    Attributes:
        origin: Where its values come from.
        values: Those that it has, if it is constant and small: its elements, in any order and number.
        positive: All are more than 0, wherever they come from.
    """

    origin: Origin
    values: NDArray[Any] | None = None
    positive: bool = False


_VALUE = _Known(Origin.VALUE)
_SIZE = _Known(Origin.SIZE)


@dataclass(frozen=True, slots=True)
class Hazard:
    """An operator by which a request can end the process.

    Attributes:
        node: The operator, and what its node is called.
        danger: What it does, as the rest of a sentence.
    """

    node: str
    danger: str

    def __str__(self) -> str:
        return f"{self.node} {self.danger}"


class _Scope:
    """The tensors that a graph can name: its own, and those of the graphs around it."""

    def __init__(self, graph: Graph, overridable: bool, outer: "_Scope | None" = None) -> None:
        self._outer = outer
        self._types = {**graph.inputs, **graph.types}
        self._known: dict[str, _Known] = {}
        self._tensors = graph.initializers
        for name, tensor in graph.initializers.items():
            if not (overridable and name in graph.inputs):
                self._known[name] = _Known(Origin.CONSTANT, tensor.values)
        for name in graph.inputs:
            self._known.setdefault(name, _VALUE)

    def known(self, name: str) -> _Known:
        found = self._known.get(name)
        if found is None:
            return _VALUE if self._outer is None else self._outer.known(name)
        return found

    def type_of(self, name: str) -> TensorType:
        if name in self._tensors:
            tensor = self._tensors[name]
            return TensorType(tensor.element, tensor.shape)
        found = self._types.get(name)
        if found is None:
            return TensorType() if self._outer is None else self._outer.type_of(name)
        return found

    def set(self, name: str, known: _Known) -> None:
        self._known[name] = known


def find_hazard(model: ModelGraph) -> Hazard | None:
    """Returns the first operator of the graph by which a request can end the process; None if there is none."""
    scope = _Scope(model.graph, model.ir_version >= _FIRST_IR_WITH_DEFAULTS)
    return next(_hazards(model.graph, scope), None)


def _hazards(graph: Graph, scope: _Scope) -> Iterator[Hazard]:
    for node in graph.nodes:
        if danger := _danger(node, scope):
            yield Hazard(str(node), danger)
        made_inside: list[_Known] = []
        for graphs in node.subgraphs.values():
            for inner in graphs:
                inside = _Scope(inner, overridable=False, outer=scope)
                yield from _hazards(inner, inside)
                made_inside += map(inside.known, inner.outputs)
        result = _made(node, scope, made_inside)
        for name in node.outputs:
            scope.set(name, result)


def _made(node: Node, scope: _Scope, inner: Sequence[_Known]) -> _Known:
    """Returns what is known of the outputs of a node, in whose graphs `inner` is made."""
    standard = node.domain == STANDARD_DOMAIN
    given = [scope.known(name) for name in node.inputs if name]
    origin = max((known.origin for known in (*inner, *given)), default=Origin.CONSTANT)
    if not standard:
        return _VALUE
    if node.op_type in ("Shape", "Size"):
        return _SIZE
    if node.op_type == "Constant":
        return _Known(Origin.CONSTANT, _constant(node))
    if node.op_type in _BOUNDED and origin is Origin.VALUE:
        return _SIZE
    if node.op_type == "If":
        return _either(inner)  # which branch is taken decides among values, not what they are
    if node.op_type == "Where":
        origin = max((known.origin for known in given[1:]), default=Origin.VALUE)
    if node.op_type in _SAME_VALUES and given:
        return given[0]
    if node.op_type == "Cast" and given:
        return _cast(given[0], node.attributes.get("to"))
    if (node.op_type == "Max" and any(map(_all_positive, given))) or (
        node.op_type == "Clip" and _clips_to_positive(node, scope)
    ):
        return _Known(origin, positive=True)
    if origin is Origin.SIZE and node.op_type not in _NON_NEGATIVE:
        return _Known(Origin.SIZE, np.array([-1]))  # it may be negative
    if origin is Origin.SIZE and any(_may_be(known, _wraps) for known in given):
        return _Known(Origin.SIZE, np.array([-1]))
    return _Known(origin)


def _either(branches: Sequence[_Known]) -> _Known:
    """Returns what is known of a tensor that is one of several."""
    origin = max((known.origin for known in branches), default=Origin.CONSTANT)
    negative = origin is Origin.SIZE and any(_may_be(known, lambda values: values < 0) for known in branches)
    return _Known(origin, np.array([-1]) if negative else None)


def _clips_to_positive(node: Node, scope: _Scope) -> bool:
    """Tells whether both bounds are above 0: the upper one holds if it is below the lower one."""
    low, high = _input(node, 1), _input(node, 2)
    return bool(low) and _all_positive(scope.known(low)) and (not high or _all_positive(scope.known(high)))


def _wraps(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Tells which numbers may make a negative one of a size: negative ones, and those whose multiple wraps around."""
    return np.asarray((values < 0) | (values > _GREAT))


def _cast(known: _Known, to: Attribute | None) -> _Known:
    """Returns what is known of a tensor in another type: a great number may become a negative one."""
    if known.values is not None and known.origin is Origin.CONSTANT:
        values = known.values
        most = np.iinfo(np.int64).max if to == _INT64 and values.dtype.kind in "iu" else _LEAST_MAXIMUM
        kept = values.dtype.kind in "iufb" and np.all((values == np.rint(values)) & (abs(values) <= most))
        return known if kept else _Known(Origin.CONSTANT)
    if to in _WIDE_TYPES:
        return known
    return _Known(known.origin, np.array([-1]) if known.origin is Origin.SIZE else None)


def _constant(node: Node) -> NDArray[Any] | None:
    for value in node.attributes.values():
        if isinstance(value, GraphTensor):
            return value.values
        if isinstance(value, int | float | tuple):
            return np.asarray(value)
    return None


def _may_be(known: _Known, test: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> bool:
    """Tells whether a tensor may have a value of which `test` is true."""
    if known.positive:
        return False
    if known.origin is Origin.VALUE:
        return True
    if known.values is None:
        return known.origin is Origin.CONSTANT
    return known.values.dtype.kind in "iufb" and bool(np.any(test(known.values)))


def _all_positive(known: _Known) -> bool:
    return known.positive or (known.origin is Origin.CONSTANT and not _may_be(known, lambda values: values <= 0))


def _danger(node: Node, scope: _Scope) -> str:
    """Returns what is dangerous about a node; "" for nothing."""
    if node.domain not in _KNOWN_DOMAINS:
        return "is a custom operator"
    if node.op_type in _RECURRENT:
        return _recurrent(node, scope)
    if node.domain == _MICROSOFT:
        return _sized(node, scope, _MICROSOFT_SIZED_BY)
    if node.domain != STANDARD_DOMAIN:
        return ""
    special = _SPECIAL.get(node.op_type)
    return (special(node, scope) if special else "") or _sized(node, scope, _SIZED_BY)


def _sized(node: Node, scope: _Scope, sized_by: Mapping[str, tuple[int, ...]]) -> str:
    for index in sized_by.get(node.op_type, ()):
        if (name := _input(node, index)) and scope.known(name).origin is Origin.VALUE:
            return f"takes as much memory as the value of {name} says"
    return ""


def _division(node: Node, scope: _Scope) -> str:
    """x86 traps on the least integer by -1, and on a division by zero where ONNX Runtime does not look for it."""
    divisor = _input(node, 1)
    element = scope.type_of(divisor).element or scope.type_of(_input(node, 0)).element
    if element and "int" not in element:
        return ""
    known = scope.known(divisor)
    if not _may_be(known, lambda values: (values == 0) | (values == -1)):
        return ""
    kind = "an integer division" if element else "a division of a type that is not known, and"
    if known.origin is Origin.CONSTANT:
        return f"is {kind} by a constant that is 0 or -1, or is not known" if known.values is None else (
            f"is {kind} by a constant 0 or -1"
        )  # fmt: skip
    return f"is {kind} by {divisor}, which a request decides"


def _recurrent(node: Node, scope: _Scope) -> str:
    shape = scope.type_of(_input(node, 0)).shape
    if shape is not None and len(shape) > 1 and all(_positive(size) for size in shape[:2]):
        return ""
    return "ends the process where a request has no rows or no steps"


def _attention(node: Node, scope: _Scope) -> str:
    if node.attributes.get("q_num_heads"):
        return ""
    for name in node.inputs[:3]:
        shape = scope.type_of(name).shape
        if shape is None or (len(shape) == _ATTENTION_RANK and not _positive(shape[1])):
            return "ends the process where a request has no heads"
    return ""


def _convolution(node: Node, scope: _Scope) -> str:
    kernel = _input(node, 1)
    shape = scope.type_of(kernel).shape
    if scope.known(kernel).origin is not Origin.CONSTANT and (shape is None or not all(map(_positive, shape))):
        return "does not end where a request has no channels"
    return ""


def _transposed_convolution(node: Node, scope: _Scope) -> str:
    shape, kernel = scope.type_of(_input(node, 0)).shape, scope.type_of(_input(node, 1)).shape
    if kernel is not None and len(kernel) < _VOLUME_RANK:
        return ""
    if shape is None or (len(shape) >= _VOLUME_RANK and not all(_positive(size) for size in shape[2:])):
        return "ends the process where a request has a volume without extent"
    return ""


def _short_fourier(node: Node, scope: _Scope) -> str:
    window, length = _input(node, 2), _input(node, 3)
    if length and _may_be(scope.known(length), lambda values: values <= 0):
        return f"ends the process where {length} is 0"
    shape = scope.type_of(window).shape if window else (1,)
    if shape is None or not all(map(_positive, shape)):
        return "ends the process where a request has a window without extent"
    return ""


def _loop(node: Node, scope: _Scope) -> str:
    trips = _input(node, 0)
    known = scope.known(trips) if trips else _VALUE
    if known.origin is Origin.SIZE:
        return ""
    if known.origin is Origin.CONSTANT and known.values is not None and np.all(known.values <= _COUNTED_ROUNDS):
        return ""
    return "runs for as long as a value of a request says"


def _regions(node: Node, scope: _Scope) -> str:
    """Samples as many points of a region as it is large, if the number is not given."""
    if node.attributes.get("sampling_ratio", 0) == 0 and scope.known(_input(node, 1)).origin is Origin.VALUE:
        return f"takes as much memory as the regions in {_input(node, 1)} are large"
    return ""


_SPECIAL: Mapping[str, Callable[[Node, _Scope], str]] = {
    "Attention": _attention,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Div": _division,
    "Loop": _loop,
    "Mod": _division,
    "RoiAlign": _regions,
    "STFT": _short_fourier,
}


def _input(node: Node, index: int) -> str:
    return _at(node.inputs, index)


def _at(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else ""


def _positive(size: object) -> bool:
    return isinstance(size, int) and size > 0
