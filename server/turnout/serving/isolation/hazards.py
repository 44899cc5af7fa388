"""Decides which versions run in child processes: those by whose operators a request can end the process. Pure.

There are two kinds: operators on which ONNX Runtime crashes or hangs for some values or sizes of their inputs, and
operators that take as much memory or time as a value of a request demands. docs/decisions/0037 lists the experiments
and their results. Sizes that follow from the sizes of a request are no hazard, since the limit on messages bounds them.
Other operators leave part of their output as it was in memory (`turnout.serving.isolation.unwritten`).

Fusions by ONNX Runtime matter too. It fuses an `Add` and a `LayerNormalization` into one operator, which ends the
process if one addend is empty. That case is left to the check of requests (`turnout.serving.isolation.empty_inputs`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from turnout.registry.manifest.signature import Dimension
from turnout.registry.onnx.graph import CLASSICAL_DOMAIN, MICROSOFT_DOMAIN, STANDARD_DOMAIN, ModelGraph, Node
from turnout.registry.onnx.value_sizes import SIZED_BY_VALUES
from turnout.serving.isolation.empty_reductions import AfterEmpty, Empty, after_empty
from turnout.serving.isolation.origins import RECURRENT, VALUE, Origin, Scope, filled, input_of, may_be, positive, walk
from turnout.serving.isolation.unwritten import find_unwritten, products, unwritten_after_empty
from turnout.serving.isolation.windows import may_exceed_image, numbers

_NCHWC = "com.microsoft.nchwc"
Wish = Literal["auto", "thread", "process"]

_KNOWN_DOMAINS = frozenset({STANDARD_DOMAIN, CLASSICAL_DOMAIN, MICROSOFT_DOMAIN, _NCHWC, "ai.onnx.preview"})
"""Domains of the operators that are part of ONNX Runtime."""

_SIZED_BY: Mapping[str, tuple[int, ...]] = {
    name: inputs for name, inputs in SIZED_BY_VALUES.items() if inputs is not None and name != "Col2Im"
} | {"MelWeightMatrix": (0, 1)}
"""Inputs, by operator, whose values determine how much memory or time it takes. `Col2Im` fails unless its values agree
with the size of its first input, and the last three inputs of `MelWeightMatrix` are frequencies."""

_MICROSOFT_SIZED_BY: Mapping[str, tuple[int, ...]] = {
    "BeamSearch": (1, 2, 3, 4),
    "CropAndResize": (3,),
    "GreedySearch": (1, 2),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Sampling": (1, 2),
    "WhisperBeamSearch": (1, 2, 3, 4),
}

_HARMLESS_OF_MICROSOFT = frozenset(
    {"Attention", "BiasGelu", "BifurcationDetector", "CDist", "CausalConvWithState", "ConvTransposeWithDynamicPads"}
    | {"CropAndResize", "DequantizeLinear", "DynamicQuantizeMatMul", "DynamicTimeWarping", "EmbedLayerNormalization"}
    | {"ExpandDims", "FastGelu", "FusedGemm", "FusedMatMul", "GatherBlockQuantized", "GatherND", "Gelu", "GridSample"}
    | {"MatMulBnb4", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits", "MaxpoolWithMask", "MurmurHash3"}
    | {"NGramRepeatBlock", "NhwcMaxPool", "Pad", "QGemm", "QLinearAdd", "QLinearConcat", "QLinearConv"}
    | {"QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere"}
    | {"QuantizeLinear", "QuickGelu", "Range", "SampleOp", "Tokenizer", "TransposeMatMul", "Trilu", "UnfoldTensor"}
    | {"Unique", "WordConvEmbedding"}
)
"""Operators of `com.microsoft` by which no request of any sizes and values tried could end the process."""

_ASSUMES_A_RANK = frozenset(
    {"Concat", "ConcatFromSequence", "ConvInteger", "DFT", "Einsum", "GridSample", "MaxRoiPool", "Multinomial"}
    | {"QLinearConv", "Resize", "ReverseSequence", "STFT", "Unique", "Upsample"}
)
"""Operators that leave it to shape inference to check the number of dimensions, which it cannot if a request decides
that. Operators of `com.microsoft` were not tried, and all others return an error or an answer."""

_ATTENTION_RANK = 4
_COUNTED_ROUNDS = 10**6
"""A loop of more rounds is not meant to complete them: it ends by its condition, which values may decide."""

_VOLUME_RANK = 5
_PICTURE_AXES = 2
_TABLE_RANK = 2
_FACTORS = 2


@dataclass(frozen=True, slots=True)
class Isolation:
    """Whether a version runs in child processes, rather than in the server's process, and why.

    With `zeroed`, the memory that a child gets is 0, since an operator may leave it as it is.
    """

    process: bool
    reason: str
    zeroed: bool = False

    def __str__(self) -> str:
        return f"{'process' if self.process else 'thread'} ({self.reason})"


UNBATCHED_IF_ZEROED = "unbatched: an operator may leave in its output what was in memory, such as rows of a shared run"

IN_THIS_PROCESS = Isolation(False, "nothing was decided")


def decide(wish: Wish, graph: ModelGraph) -> Isolation:
    """Returns where a model runs, according to the setting `isolation` and its graph.

    A graph that ONNX Runtime will refuse, such as one with a loop without a body, may be none that can be analyzed. It
    is left to a child process, which fails with ONNX Runtime's reason.
    """
    if wish == "thread":
        return Isolation(False, "the configuration says so")
    try:
        hazard = find_hazard(graph) if wish == "auto" else None
        unwritten = find_unwritten(graph) or next((why for why, empty in find_misjudged(graph) if empty.by_graph), None)
    except Exception as error:  # noqa: BLE001 - whatever the graph lacks
        return Isolation(True, f"{wish}: its graph cannot be analyzed ({error or type(error).__name__})", zeroed=True)
    if wish == "process":
        return Isolation(True, "the configuration says so", zeroed=unwritten is not None)
    reason = hazard or unwritten
    if reason is None:
        return Isolation(False, "auto: nothing in its graph lets a request end the process")
    return Isolation(True, f"auto: {reason}", zeroed=unwritten is not None)


def find_hazard(model: ModelGraph) -> str | None:
    """Returns the first operator of the graph by which a request can end the process, and what it does, as a sentence.

    None if there is none.
    """
    found = ((node, _danger(node, scope)) for node, scope in walk(model))
    return next((f"{node} {danger}" for node, danger in found if danger), None)


def find_misjudged(model: ModelGraph) -> Iterator[tuple[str, Empty]]:
    """Yields what operators do only because a reduction of an empty tensor has other sizes than ONNX infers, as a
    sentence, and what has to be empty for that.
    """
    found = [*after_empty(model)]
    factors = {product.node: product.factors for product in products(walk(model))} if found else {}
    for one in found:
        if danger := _danger_after_empty(one, factors.get(one.node)):
            yield f"{one.node} {danger}", one.empty


def _danger_after_empty(one: AfterEmpty, factors: tuple[str, str] | None) -> str:
    node, inferred, actual = one.node, one.inferred, one.actual
    if _danger(node, inferred):
        return ""  # it runs in a child process
    if danger := _danger(node, actual) or unwritten_after_empty(node, inferred, actual, factors):
        return danger
    if node.op_type in _ASSUMES_A_RANK - {"Concat"} | {"Scan"} or node.domain == MICROSOFT_DOMAIN:
        for name in filter(None, node.inputs):
            if actual.has_any_rank(name) or _rank(name, actual) != _rank(name, inferred):
                return f"ends the process where {name} has more dimensions than ONNX infers"
    return ""


def _rank(name: str, scope: Scope) -> int | None:
    shape = scope.types[name].shape
    return None if shape is None else len(shape)


def _danger(node: Node, scope: Scope) -> str:
    if node.domain not in _KNOWN_DOMAINS:
        return "is a custom operator"
    if node.op_type in _ASSUMES_A_RANK or node.domain == MICROSOFT_DOMAIN:
        for name in filter(scope.has_any_rank, node.inputs):
            return f"ends the process where {name} has too few dimensions or too many, which a request decides"
    if node.op_type in RECURRENT:
        return _recurrent(node, scope)
    if node.domain == MICROSOFT_DOMAIN:
        return _of_microsoft(node, scope)
    if node.domain == CLASSICAL_DOMAIN:
        return _vectors(node, scope) if node.op_type == "FeatureVectorizer" else ""
    special = _SPECIAL.get(node.op_type)
    if node.domain == _NCHWC:
        return special(node, scope) if special is _windows else ""
    if node.domain != STANDARD_DOMAIN:
        return ""
    return (special(node, scope) if special else "") or _sized(node, scope, _SIZED_BY)


def _of_microsoft(node: Node, scope: Scope) -> str:
    special = _SPECIAL_OF_MICROSOFT.get(node.op_type)
    if special is None and node.op_type not in _HARMLESS_OF_MICROSOFT:
        return "is an operator of which it is not known whether a request can end the process by it"
    return (special(node, scope) if special else "") or _sized(node, scope, _MICROSOFT_SIZED_BY)


def _sized(node: Node, scope: Scope, sized_by: Mapping[str, tuple[int, ...]]) -> str:
    for index in sized_by.get(node.op_type, ()):
        if (name := input_of(node, index)) and scope.known[name].origin is Origin.VALUE:
            return f"takes as much memory as the value of {name} says"
    return ""


def _division(node: Node, scope: Scope) -> str:
    """Checks integer divisions: x86 traps on the least integer divided by -1, and on division by zero where ONNX
    Runtime does not check for it.
    """
    divisor = input_of(node, 1)
    element = scope.types[divisor].element or scope.types[input_of(node, 0)].element
    if element and "int" not in element:
        return ""
    known = scope.known[divisor]
    if not may_be(known, lambda values: (values == 0) | (values == -1)):
        return ""
    kind = "an integer division" if element else "a division of a type that is not known, and"
    if known.origin is Origin.CONSTANT:
        return f"is {kind} by a constant that is 0 or -1, or is not known" if known.values is None else (
            f"is {kind} by a constant 0 or -1"
        )  # fmt: skip
    return f"is {kind} by {divisor}, which a request decides"


def _attention(node: Node, scope: Scope) -> str:
    if node.attributes.get("q_num_heads"):
        return ""
    for name in node.inputs[:3]:
        shape = scope.types[name].shape
        if shape is None or (len(shape) == _ATTENTION_RANK and not positive(shape[1])):
            return "ends the process where a request has no heads"
    return ""


def _convolution(node: Node, scope: Scope) -> str:
    if scope.known[input_of(node, 1)].origin is not Origin.CONSTANT and not filled(scope.shape(node, 1)):
        return "does not end where a request has no channels"
    return ""


def _transposed_convolution(node: Node, scope: Scope) -> str:
    shape, kernel = scope.shape(node, 0), scope.shape(node, 1)
    if kernel is not None and len(kernel) < _VOLUME_RANK:
        return ""
    if shape is None or (len(shape) >= _VOLUME_RANK and not filled(shape[2:])):
        return "ends the process where a request has a volume without extent"
    return ""


def _short_fourier(node: Node, scope: Scope) -> str:
    window, length = input_of(node, 2), input_of(node, 3)
    if length and may_be(scope.known[length], lambda values: values <= 0):
        return f"ends the process where {length} is 0"
    if window and not filled(scope.types[window].shape):
        return "ends the process where a request has a window without extent"
    return ""


def _loop(node: Node, scope: Scope) -> str:
    trips = input_of(node, 0)
    known = scope.known[trips] if trips else VALUE
    counted = known.origin is Origin.CONSTANT and known.values is not None and np.all(known.values <= _COUNTED_ROUNDS)
    if not counted and known.origin is not Origin.SIZE:
        return "runs for as long as a value of a request says"
    if danger := _reads_one(0, 1)(node, scope):
        return danger
    if not _ends_a_loop_by_one_flag(node, scope):
        return "ends the process where the tensor that it goes on by is empty"
    return ""


def _ends_a_loop_by_one_flag(node: Node, scope: Scope) -> bool:
    """Returns whether the body's loop condition is a single flag: ONNX Runtime reads the first element of an empty
    tensor too.
    """
    ((body,),) = node.subgraphs.values()
    flag = body.outputs[0]
    makers = {name: made for made in body.nodes for name in made.outputs}
    while flag in makers and makers[flag].op_type == "Identity":
        flag = makers[flag].inputs[0]
    if flag in [*body.inputs][1:2]:
        return True  # the condition is the one passed to the body, which is checked elsewhere
    return filled(Scope(body, overridable=False, outer=scope).types[flag].shape)


def _scan(node: Node, scope: Scope) -> str:
    """Checks for empty tensors of which it moves an axis: that it scans to the front, or that it stacks from there."""
    count = node.attributes.get("num_scan_inputs")
    first = len(node.inputs) - (count if isinstance(count, int) else 0)  # of the inputs; as many outputs are states
    scanned, stacked = node.inputs[first:], node.outputs[first:]
    # A model whose numbers of axes and tensors differ is one that ONNX Runtime refuses, with a better error.
    for name, axis in zip(scanned, numbers(node, "scan_input_axes", 0, len(scanned)), strict=False):
        shape = scope.types[name].shape
        if axis and (shape is None or not filled(shape[axis:])):
            return f"ends the process where {name} is empty"
    for name, axis in zip(stacked, numbers(node, "scan_output_axes", 0, len(stacked)), strict=False):
        if axis and name and not filled(scope.types[name].shape):
            return f"ends the process where {name} is empty"
    return ""


def _windows(node: Node, scope: Scope) -> str:
    """Checks pooling of images, which ONNX Runtime may convert to blocks of channels; it then divides by the height of
    the output.
    """
    element = scope.types[input_of(node, 0)].element
    if node.domain == STANDARD_DOMAIN and element not in ("float32", ""):
        return ""  # only float32 and quantized images are run in blocks
    if len(numbers(node, "kernel_shape", 1, 0)) == _PICTURE_AXES and may_exceed_image(node, scope):
        return "ends the process where its window is larger than the picture of a request"
    return ""


def _einsum(node: Node, scope: Scope) -> str:
    """Checks for factors and products that may be empty and are transposed, which divides by their sizes."""
    if len(node.inputs) < _FACTORS or _is_plain_product(str(node.attributes.get("equation", ""))):
        return ""
    if all(filled(scope.types[name].shape) for name in node.inputs):
        return ""
    return "ends the process where a request has a dimension of 0"


def _is_plain_product(equation: str) -> bool:
    """Returns whether an equation is a matrix product without transpositions, such as `bij,bjk->bik`."""
    terms, _, product = equation.replace(" ", "").partition("->")
    left, _, right = terms.partition(",")
    if not (left + right + product).isalpha() or any(len({*term}) < len(term) for term in (left, right, product)):
        return False
    rows = "".join(letter for letter in left if letter in right and letter in product)
    summed = "".join(letter for letter in left if letter in right and letter not in product)
    alone, other = left.removeprefix(rows).removesuffix(summed), right.removeprefix(rows + summed)
    return left == rows + alone + summed and right == rows + summed + other and product == rows + alone + other


def _unique(node: Node, scope: Scope) -> str:
    axis, shape = node.attributes.get("axis"), scope.shape(node, 0)
    if not isinstance(axis, int):
        return ""  # of elements
    if shape is not None and filled([size for at, size in enumerate(shape) if at != axis % len(shape)]):
        return ""
    return "ends the process where its slices are empty"


def _blocks(node: Node, scope: Scope) -> str:
    if node.attributes.get("block_size") and scope.known[input_of(node, 1)].origin is not Origin.CONSTANT:
        return "ends the process where a request has no blocks"
    return ""


def _unless(safe: Callable[[tuple[Dimension, ...]], bool], danger: str) -> "_Danger":
    """Returns the check for operators that are safe if the dimensions of their first input are known and suitable."""

    def check(node: Node, scope: Scope) -> str:
        shape = scope.shape(node, 0)
        return "" if shape is not None and safe(shape) else danger

    return check


def _with_width(*indices: int) -> "_Danger":
    """Returns the check for operators that divide by the width of some inputs, or by a number derived from it."""

    def danger(node: Node, scope: Scope) -> str:
        if all(scope.has_width(name) for index in indices if (name := input_of(node, index))):
            return ""
        return "ends the process where a request has no features"

    return danger


def _reads_one(*indices: int) -> "_Danger":
    """Returns the check for operators that read an element of some inputs even if these are empty."""

    def danger(node: Node, scope: Scope) -> str:
        for name in (input_of(node, index) for index in indices):
            if name and not filled(scope.types[name].shape):
                return f"ends the process where {name} is empty"
        return ""

    return danger


def _sum_normalization(node: Node, scope: Scope) -> str:
    """Checks the second input, which is repeated to the size of the first and so must not be empty."""
    one, other = (scope.shape(node, index) for index in range(2))
    if filled(other):
        return ""
    if one is not None and one == other and None not in one:
        return ""  # each request is checked for that, as for an `Add`
    if scope.lead(input_of(node, 0)) == scope.lead(input_of(node, 1)):
        return ""
    return "ends the process where only one of the tensors that it adds is empty"


def _picture(node: Node, scope: Scope) -> str:
    """Checks for an image that may be empty, in which an element is read nevertheless."""
    return "" if scope.is_filled_picture(input_of(node, 0)) else "reads beyond a picture that is empty"


def _regions(node: Node, scope: Scope) -> str:
    """Checks for empty images, and for a missing sampling ratio, by which the size of a region sets the work."""
    if danger := _picture(node, scope):
        return danger
    if node.attributes.get("sampling_ratio", 0) == 0 and scope.known[input_of(node, 1)].origin is Origin.VALUE:
        return f"takes as much memory as the regions in {input_of(node, 1)} are large"
    return ""


_Danger = Callable[[Node, Scope], str]

_NO_ROWS = "ends the process where a request has no rows"
_recurrent = _unless(lambda shape: len(shape) > 1 and filled(shape[:2]), f"{_NO_ROWS} or no steps")
_vectors = _unless(lambda shape: len(shape) < _TABLE_RANK or positive(shape[0]), _NO_ROWS)
_with_rows = _unless(lambda shape: bool(shape) and filled(shape), _NO_ROWS)
_matrices = _unless(
    # They are assumed to be square; of others, memory out of bounds is accessed.
    lambda shape: positive(shape[-1]) and shape[-1] == shape[-2],
    "ends the process where the matrices of a request are not square",
)

_SPECIAL: Mapping[str, _Danger] = {
    "Attention": _attention,
    "AveragePool": _windows,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Div": _division,
    "Einsum": _einsum,
    "InstanceNormalization": _picture,
    "Loop": _loop,
    "MaxPool": _windows,
    "Mod": _division,
    "QuantizeLinear": _blocks,
    "RoiAlign": _regions,
    "Scan": _scan,
    "SequenceAt": _reads_one(1),
    "SequenceErase": _reads_one(1),
    "SequenceInsert": _reads_one(2),
    "STFT": _short_fourier,
    "Unique": _unique,
}

_SPECIAL_OF_MICROSOFT: Mapping[str, _Danger] = {
    "DecoderMaskedMultiHeadAttention": _with_width(0, 1, 2),
    "FusedConv": _convolution,
    "GroupQueryAttention": _with_rows,
    "Inverse": _matrices,
    "LinearAttention": _with_width(0, 1, 2),
    "MoE": _with_width(0),
    "MultiHeadAttention": _with_width(0, 1, 2),
    "QAttention": _with_rows,
    "QLinearAveragePool": _windows,
    "QMoE": _with_width(0),
    "RotaryEmbedding": _with_width(0),
    "SkipLayerNormalization": _sum_normalization,
    "SkipSimplifiedLayerNormalization": _sum_normalization,
}
