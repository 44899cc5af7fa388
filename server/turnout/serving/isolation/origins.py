"""Walks through the nodes of a model and of its subgraphs, and tracks what determines the tensors that they use and
what is known about their sizes. Pure.

constant    the same for every request; its value is known if it is small
size        zero or more, computed from the sizes of inputs, so that no value of a request affects it
value       depends on a value of a request
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from turnout.registry.manifest.signature import Dimension
from turnout.registry.onnx.graph import (
    MICROSOFT_DOMAIN,
    STANDARD_DOMAIN,
    Attribute,
    Graph,
    GraphTensor,
    ModelGraph,
    Node,
    TensorType,
)

_SAME_VALUES = frozenset(
    {"Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose", "Expand", "Tile", "Gather", "Slice"}
)
"""Operators whose output contains only values of their first input, whatever their other inputs."""

_INT64 = 7
_WIDE_TYPES = frozenset({1, _INT64, 11})
"""Element types, by ONNX's number, in which a size keeps its sign: float32, int64, float64."""

_NON_NEGATIVE = frozenset(
    {"Add", "Mul", "Div", "Max", "Min", "Concat", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "Range", "Mod"}
    | {"CumSum", "ConstantOfShape", "Floor", "Ceil", "Round", "Sqrt", "Abs"}
)
"""Operators that yield nothing negative from inputs that are not negative, besides `_SAME_VALUES`."""

_BOUNDED = frozenset(
    {"ArgMax", "ArgMin", "NonZero", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"}
    | {"Xor", "IsNaN", "IsInf"}
)
"""Operators whose outputs are flags or positions, bounded by the sizes of their inputs whatever the values."""

_LEAST_MAXIMUM = 127
"""Largest value that every integer type can represent."""

_GREAT = 2**31
"""A constant above this, times a size, may overflow 64 bits: 3 * 6148914691236517205 is -1."""

_WEIGHS = frozenset(
    {"MatMul", "MatMulInteger", "FusedMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"}
    | {"Attention", "QAttention"}
)
"""Operators of any domain that set the width of their output by their second input, the weights, if it is constant."""

_STRETCHES = frozenset({"Add", "Sub", "Mul", "Div"})

_KEEPS_SIZES = _STRETCHES | {
    "BiasGelu", "Cast", "DequantizeLinear", "Dropout", "Erf", "FastGelu", "Gelu", "Identity", "LayerNormalization",
    "MultiHeadAttention", "QuantizeLinear", "QuickGelu", "RMSNormalization", "Relu", "RotaryEmbedding", "Sigmoid",
    "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Tanh",
}  # fmt: skip
"""Operators of any domain that keep the sizes of their first input, or of all inputs if they broadcast."""

_MAKES_PICTURES = frozenset(
    {"AveragePool", "Conv", "ConvInteger", "ConvTranspose", "FusedConv", "MaxPool", "QLinearConv"}
)
"""Operators of any domain that fail rather than produce an image without height or width."""

_KEEPS_PICTURES = _KEEPS_SIZES | {
    "BatchNormalization", "Clip", "Concat", "Elu", "HardSigmoid", "HardSwish", "InstanceNormalization", "LRN",
    "LeakyRelu", "Mish", "PRelu", "Selu", "Softplus", "Sum", "Swish",
}  # fmt: skip
"""Operators of any domain that produce images if all their inputs are images or constants."""


RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "AttnLSTM"})
"""Operators of any domain that end the process if there are no rows or no steps."""

_RANK_FROM_LENGTH = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Squeeze": 1, "Unsqueeze": 1}
"""Operators whose output has a rank that follows from the length of an input, and the index of that input. Those that
reduce do, too."""


class Origin(IntEnum):
    """What determines a tensor's values. The origin of a combination is the greatest of its parts."""

    CONSTANT = 0
    SIZE = 1
    VALUE = 2


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is known about a tensor.

    Attributes:
        origin: What determines its values.
        values: Its elements, in any order and number, if it is constant and small; None if unknown.
        positive: Whether all elements are known to be above 0.
    """

    origin: Origin
    values: NDArray[Any] | None = None
    positive: bool = False


F = TypeVar("F")

VALUE = Known(Origin.VALUE)
_SIZE = Known(Origin.SIZE)


class _Facts(dict[str, F]):
    """What is known about tensors, by name. What a graph does not know, the enclosing graph may."""

    def __init__(self, unknown: F, outer: "_Facts[F] | None") -> None:
        super().__init__()
        self._unknown = unknown
        self._outer = outer

    def __missing__(self, name: str) -> F:
        return self._unknown if self._outer is None else self._outer[name]


class Scope:
    """The tensors visible in a graph: its own and those of the enclosing graphs.

    Attributes:
        known: What is known about each tensor.
        types: Element type and dimensions of each tensor, as far as ONNX infers them.
        sources: The model's inputs that each tensor is computed from.
    """

    def __init__(
        self,
        graph: Graph,
        overridable: bool,
        outer: "Scope | None" = None,
        made_of: frozenset[str] = frozenset(),
        any_rank: bool = True,
    ) -> None:
        """Describes the tensors of a graph that are known before the first node.

        With `overridable`, initialisers with the name of an input are only its default. `outer` is the scope of the
        node whose subgraph it is, and `made_of` are the model's inputs that the inputs of the subgraph are computed
        from. With `any_rank`, inputs that do not state their rank may have any.
        """
        self.known: _Facts[Known] = _Facts(VALUE, None if outer is None else outer.known)
        self.types: _Facts[TensorType] = _Facts(TensorType(), None if outer is None else outer.types)
        self.sources: _Facts[frozenset[str]] = _Facts(frozenset(), None if outer is None else outer.sources)
        self._wide: _Facts[bool] = _Facts(False, None if outer is None else outer._wide)
        self._leads: _Facts[str] = _Facts("", None if outer is None else outer._leads)
        self._pictures: _Facts[bool] = _Facts(False, None if outer is None else outer._pictures)
        self._sequences: _Facts[tuple[str, ...]] = _Facts((), None if outer is None else outer._sequences)
        self._followed: _Facts[bool] = _Facts(False, None if outer is None else outer._followed)
        self._free_ranks: _Facts[bool] = _Facts(False, None if outer is None else outer._free_ranks)
        self._fixed_lengths: _Facts[bool] = _Facts(False, None if outer is None else outer._fixed_lengths)
        self._free_ranks |= dict.fromkeys(graph.inputs, any_rank)
        self.types |= {**graph.inputs, **graph.types}
        settable = graph.inputs.keys() if overridable else ()
        fixed = {name: tensor for name, tensor in graph.initializers.items() if name not in settable}
        self.types |= {name: TensorType(tensor.element, tensor.shape) for name, tensor in fixed.items()}
        self.known |= {name: Known(Origin.CONSTANT, tensor.values) for name, tensor in fixed.items()}
        for name in graph.inputs.keys() - fixed.keys():
            self.known[name] = VALUE
            self.sources[name] = frozenset([name]) if outer is None else made_of

    def shape(self, node: Node, index: int) -> tuple[Dimension, ...] | None:
        """Returns the dimensions of one of a node's inputs; None if they are not known, or the input is omitted."""
        return self.types[input_of(node, index)].shape

    def as_if(self, types: Mapping[str, TensorType], any_rank: Iterable[str]) -> "Scope":
        """Returns the same tensors, some of which have other types and, if of `any_rank`, ranks that nobody knows."""
        other = copy.copy(self)
        other.types = _Facts(TensorType(), self.types)
        other.types |= types
        other._wide = _Facts(False, self._wide)
        other._wide |= dict.fromkeys(types, False)
        other._free_ranks = _Facts(False, self._free_ranks)
        other._free_ranks |= dict.fromkeys(any_rank, True)
        return other

    def joined(self, node: Node) -> tuple[str, ...]:
        """Returns the tensors that a node joins along an axis, as far as they are known; none if it joins nothing."""
        match node.operator:
            case (domain, "Concat") if domain == STANDARD_DOMAIN:
                return node.inputs
            case (domain, "ConcatFromSequence") if domain == STANDARD_DOMAIN:
                return self._sequences[node.inputs[0]]
            case (domain, "QLinearConcat") if domain == MICROSOFT_DOMAIN:
                return node.inputs[2::3]  # each with its scale and zero point, after those of the output
        return ()

    def follows(self, sequence: str) -> bool:
        """Returns whether all tensors that may be in a sequence are known."""
        return self._followed[sequence]

    def define(self, node: Node, known: Known, sources: frozenset[str], *, any_rank: bool = False) -> None:
        """Records what is known about the outputs of a node; `any_rank` says that its subgraphs leave the rank open."""
        if node.op_type == "SequenceConstruct":
            self._sequences[node.outputs[0]] = node.inputs
            self._followed[node.outputs[0]] = True
        elif node.op_type == "SequenceEmpty":
            self._followed[node.outputs[0]] = True
        elif node.op_type in ("Identity", "SequenceErase", "SequenceInsert"):
            added = node.inputs[1:2] if node.op_type == "SequenceInsert" else ()
            self._sequences[node.outputs[0]] = (*self._sequences[node.inputs[0]], *added)
            self._followed[node.outputs[0]] = self._followed[node.inputs[0]]
        elif node.op_type == "Shape":
            self._fixed_lengths[node.outputs[0]] = not self.has_any_rank(node.inputs[0])
        any_rank = any_rank or self._leaves_rank_open(node)
        for name in filter(None, node.outputs):
            self.known[name] = known
            self.sources[name] = sources
            self._free_ranks[name] = any_rank
        self._follow_sizes(node)

    def has_width(self, name: str) -> bool:
        """Returns whether the last dimension of a tensor is known not to be 0."""
        shape = self.types[name].shape
        return positive(shape[-1]) if shape else self._wide[name]

    def lead(self, name: str) -> str:
        """Returns the first tensor known to have the same dimensions except the last; the tensor itself if none is."""
        return self._leads[name] or name

    def is_picture(self, name: str) -> bool:
        """Returns whether a tensor is known to have a nonzero height and width."""
        return self._pictures[name]

    def is_filled_picture(self, name: str) -> bool:
        """Returns whether an image is known not to be empty, by what made it or by its shape (batch, channels, ...)."""
        shape = self.types[name].shape
        return self.is_picture(name) or bool(shape and filled(shape[2:]))

    def has_any_rank(self, name: str) -> bool:
        """Returns whether the number of dimensions of a tensor is decided by a request.

        ONNX does not know the ranks of what operators of other domains compute either, but no request decides those.
        """
        return self.types[name].shape is None and self._free_ranks[name]

    def _leaves_rank_open(self, node: Node) -> bool:
        if node.op_type == "Flatten":
            return False
        if any(map(self.has_any_rank, filter(None, node.inputs))):
            return True
        if node.op_type in ("SequenceConstruct", "SequenceInsert"):
            shapes = map(self.types.__getitem__, self._sequences[node.outputs[0]])
            ranks = [None if kind.shape is None else len(kind.shape) for kind in shapes]
            return len(ranks) > 1 and (None in ranks or len({*ranks}) > 1)
        if node.op_type == "GatherND":
            indices = self.shape(node, 1)
            return indices is not None and indices != () and not isinstance(indices[-1], int)
        drops = node.op_type.startswith("Reduce") and node.attributes.get("keepdims") == 0
        index = 1 if drops else _RANK_FROM_LENGTH.get(node.op_type)
        if index is None or "axes" in node.attributes or "shape" in node.attributes:
            return False
        if not (name := input_of(node, index)):
            return node.op_type == "Squeeze"
        length = self.types[name].shape
        return not (length and isinstance(length[0], int)) and not self._fixed_lengths[name]

    def _follow_sizes(self, node: Node) -> None:
        """Records the sizes of a node's output, since ONNX does not infer those of ONNX Runtime's own operators."""
        computed = [name for name in node.inputs if name and self.known[name].origin is not Origin.CONSTANT]
        if node.op_type in _MAKES_PICTURES or (
            node.op_type in _KEEPS_PICTURES and computed and all(map(self.is_picture, computed))
        ):
            self._pictures |= dict.fromkeys(node.outputs[:1], True)
        if node.op_type in _WEIGHS:
            data, weights = input_of(node, 0), input_of(node, 1)
            if self.known[weights].origin is not Origin.CONSTANT:
                return
            wide, leads = filled(self.types[weights].shape), [data]
        elif node.op_type in _KEEPS_SIZES:
            given = [name for name in node.inputs if name]
            shapes = [self.types[name].shape for name in given]
            wide = any(map(self.has_width, given[:1])) or any(positive(s[-1]) and s[-1] != 1 for s in shapes if s)
            leads = computed if node.op_type in _STRETCHES else computed[:1]
        else:
            return
        for name in node.outputs[:1]:
            self._wide[name] = wide or self._wide[name]
            if len({*map(self.lead, leads)}) == 1:
                self._leads[name] = self.lead(leads[0])


def walk(model: ModelGraph) -> Iterator[tuple[Node, Scope]]:
    """Yields every node of a model with the tensors that it sees.

    A node comes after those whose outputs it uses, and before those of its subgraphs.
    """
    return _walk(model.graph, Scope(model.graph, model.has_defaults))


def _walk(graph: Graph, scope: Scope) -> Iterator[tuple[Node, Scope]]:
    for node in graph.nodes:
        yield node, scope
        # Whatever a subgraph is given comes from its node's inputs, or from what it uses itself in an earlier round.
        sources = frozenset[str]().union(*map(scope.sources.__getitem__, node.names_read()))
        any_rank = any(map(scope.has_any_rank, node.names_read()))
        made_inside: list[Known] = []
        ranks: list[list[int | None]] = []
        # A body may give a value that it carries to its next round another rank in each round.
        carries = node.op_type == "Loop" and len(node.inputs) > 2
        for inner in node.inner_graphs():
            inside = Scope(inner, overridable=True, outer=scope, made_of=sources, any_rank=any_rank or carries)
            yield from _walk(inner, inside)
            made_inside += map(inside.known.__getitem__, inner.outputs)
            any_rank = any_rank or any(map(inside.has_any_rank, inner.outputs))
            shapes = (inside.types[name].shape for name in inner.outputs)
            ranks.append([None if shape is None else len(shape) for shape in shapes])
        differ = len(ranks) > 1 and any(None in one or one != ranks[0] for one in ranks)  # None may be any
        grows = carries and any(None in one for one in ranks)
        open_inside = bool(ranks) and (any_rank or differ or grows)
        scope.define(node, _made(node, scope, made_inside), sources, any_rank=open_inside)


def _made(node: Node, scope: Scope, inner: Sequence[Known]) -> Known:
    """Returns what is known about the outputs of a node; `inner` describes the outputs of its subgraphs."""
    standard = node.domain == STANDARD_DOMAIN
    given = [scope.known[name] for name in node.inputs if name]
    origin = max((known.origin for known in (*inner, *given)), default=Origin.CONSTANT)
    if not standard:
        return VALUE
    if node.op_type in ("Shape", "Size"):
        return _SIZE
    if node.op_type == "Constant":
        return Known(Origin.CONSTANT, _constant(node))
    if node.op_type in _BOUNDED and origin is Origin.VALUE:
        return _SIZE
    if node.op_type == "If":
        return _either(inner)  # the condition selects among values but does not determine them
    if node.op_type == "Where":
        origin = max((known.origin for known in given[1:]), default=Origin.VALUE)
    if node.op_type in _SAME_VALUES and given:
        return given[0]
    if node.op_type == "Cast" and given:
        return _cast(given[0], node.attributes.get("to"))
    if (node.op_type == "Max" and any(map(all_positive, given))) or (
        node.op_type == "Clip" and _clips_to_positive(node, scope)
    ):
        return Known(origin, positive=True)
    if origin is Origin.SIZE and node.op_type not in _NON_NEGATIVE:
        return Known(Origin.SIZE, np.array([-1]))  # it may be negative
    if origin is Origin.SIZE and any(may_be(known, _wraps) for known in given):
        return Known(Origin.SIZE, np.array([-1]))
    return Known(origin)


def _either(branches: Sequence[Known]) -> Known:
    origin = max((known.origin for known in branches), default=Origin.CONSTANT)
    negative = origin is Origin.SIZE and any(may_be(known, lambda values: values < 0) for known in branches)
    return Known(origin, np.array([-1]) if negative else None)


def _clips_to_positive(node: Node, scope: Scope) -> bool:
    """Returns whether both bounds are above 0: the upper bound applies if it is below the lower bound."""
    low, high = input_of(node, 1), input_of(node, 2)
    return bool(low) and all_positive(scope.known[low]) and (not high or all_positive(scope.known[high]))


def _wraps(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns which numbers can make a size negative: negative numbers, and those whose multiples overflow."""
    return np.asarray((values < 0) | (values > _GREAT))


def _cast(known: Known, to: Attribute | None) -> Known:
    """Returns what is known about a tensor after a cast, which may turn a large number into a negative one."""
    if known.values is not None and known.origin is Origin.CONSTANT:
        values = known.values
        most = np.iinfo(np.int64).max if to == _INT64 and values.dtype.kind in "iu" else _LEAST_MAXIMUM
        kept = values.dtype.kind in "iufb" and np.all((values == np.rint(values)) & (abs(values) <= most))
        return known if kept else Known(Origin.CONSTANT)
    if to in _WIDE_TYPES:
        return known
    return Known(known.origin, np.array([-1]) if known.origin is Origin.SIZE else None)


def _constant(node: Node) -> NDArray[Any] | None:
    for value in node.attributes.values():
        if isinstance(value, GraphTensor):
            return value.values
        if isinstance(value, int | float | tuple):
            return np.asarray(value)
    return None


def may_be(known: Known, test: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> bool:
    """Returns whether a tensor may have a value for which `test` is true."""
    if known.positive:
        return False
    if known.origin is Origin.VALUE:
        return True
    if known.values is None:
        return known.origin is Origin.CONSTANT
    return known.values.dtype.kind in "iufb" and bool(np.any(test(known.values)))


def all_positive(known: Known) -> bool:
    """Returns whether all elements of a tensor are known to be above 0."""
    return known.positive or (known.origin is Origin.CONSTANT and not may_be(known, lambda values: values <= 0))


def input_of(node: Node, index: int) -> str:
    """Returns the name of one of a node's inputs; "" if it is omitted."""
    return node.inputs[index] if index < len(node.inputs) else ""


def positive(size: object) -> bool:
    """Returns whether a dimension is known not to be 0."""
    return isinstance(size, int) and size > 0


def filled(shape: Sequence[Dimension] | None) -> bool:
    """Returns whether a tensor is known not to be empty."""
    return shape is not None and all(map(positive, shape))
