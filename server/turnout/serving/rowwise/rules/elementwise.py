"""Rules for elementwise operators, whose inputs are broadcast to one shape. Pure."""

import functools
from collections.abc import Mapping, Sequence

from turnout.registry.onnx.graph import CLASSICAL_DOMAIN, MICROSOFT_DOMAIN, STANDARD_DOMAIN
from turnout.serving.rowwise.call import NodeCall, Rule
from turnout.serving.rowwise.sizes import ONE, broadcast
from turnout.serving.rowwise.states import NotRowWise, Rows, Shared, State


def broadcast_rows(states: Sequence[Shared | Rows]) -> Rows:
    """Returns the result of broadcasting tensors as NumPy does. At least one must be made of rows.

    Raises:
        NotRowWise: Rows would be combined with other rows.
    """
    shapes = [state.shape for state in states if state.shape is not None]
    if len(shapes) != len(states):
        raise NotRowWise("it combines the rows with a tensor whose dimensions are not known before a run")
    rank = max(map(len, shapes))
    rows = [state for state in states if isinstance(state, Rows)]
    places = {(rank - state.rank + state.axis, state.layout) for state in rows}
    if len(places) != 1:
        raise NotRowWise("it combines each row with others: its inputs have their rows along different axes")
    ((axis, layout),) = places
    sizes = []
    for at in range(rank):
        aligned = [shape[at - rank + len(shape)] for shape in shapes if at >= rank - len(shape)]
        if at != axis:
            sizes.append(functools.reduce(broadcast, aligned, ONE))
            continue
        if any(size not in (ONE, rows[0].shape[rows[0].axis]) for size in aligned):
            raise NotRowWise("it combines the rows, along their axis, with a tensor that is not made of them")
        sizes.append(rows[0].shape[rows[0].axis])
    return Rows(tuple(sizes), axis, *layout)


def elementwise(call: NodeCall) -> Sequence[State]:
    """Broadcasts all inputs to one shape."""
    return [broadcast_rows([call.operand(index) for index in range(len(call.inputs)) if call.has(index)])]


def _first_alone(call: NodeCall) -> Sequence[State]:
    """The output follows the first input; the others are numbers for the whole tensor and must not depend on rows."""
    call.shared(*range(1, len(call.inputs)))
    return [call.rows(0)]


def _cast_like(call: NodeCall) -> Sequence[State]:
    """The second input determines only the element type."""
    first = call.operand(0)
    return [Shared(first.shape) if isinstance(first, Shared) else first]


def _dropout(call: NodeCall) -> Sequence[State]:
    if call.opset < 7 and not call.integer("is_test", 0):
        raise NotRowWise("it draws random numbers")
    if call.has(2) and call.constants(2) != [0]:
        raise NotRowWise("it may draw random numbers: it is in training mode, or an input decides that")
    call.shared(1)
    return [call.rows(0)] * len(call.node.outputs)


def _normalizes_strings(call: NodeCall) -> Sequence[State]:
    if call.attribute("stopwords"):
        raise NotRowWise("it removes stop words, so that its output may have fewer rows")
    return [call.rows(0)]


def _quantize(call: NodeCall) -> Sequence[State]:
    """Scale and zero point are single numbers, or one number for each index of an axis."""
    call.shared(1, 2)
    rows = call.rows(0)
    scale = call.given(1)
    if scale.shape is None:
        raise NotRowWise("the rank of the scale is not known before a run")
    if len(scale.shape) > 1:
        raise NotRowWise("its scale differs from block to block")
    if scale.shape not in ((), (ONE,)) and call.axis("axis", 1, rows.rank) == rows.axis:
        raise NotRowWise("its scale differs along the batch axis")
    return [rows]


def _prelu(call: NodeCall) -> Sequence[State]:
    call.shared(1)
    slope, rows = call.given(1), call.rows(0)
    if slope.shape is None or len(slope.shape) > rows.rank:
        raise NotRowWise("its slope has more dimensions than its input")
    return elementwise(call)


def _bias(call: NodeCall) -> Sequence[State]:
    """The second input, if given, is added along the last axis."""
    rows = call.rows(0)
    call.shared(1)
    if call.has(1):
        bias = call.given(1)
        if bias.shape is None or len(bias.shape) != 1 or rows.axis == rows.rank - 1:
            raise NotRowWise("its bias is not added along a separate axis")
    return [rows]


_UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid"
    " HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh"
    " Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu RegexFullMatch"
)
_SEVERAL = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min"
    " Mod Mul Or Pow StringConcat Sub Sum Where Xor"
)

ELEMENTWISE = frozenset([*_UNARY.split(), *_SEVERAL.split()])
"""Standard operators whose output has the sizes that their inputs broadcast to."""

RULES: Mapping[tuple[str, str], Rule] = {
    **{(STANDARD_DOMAIN, name): elementwise for name in ELEMENTWISE},
    (STANDARD_DOMAIN, "CastLike"): _cast_like,
    (STANDARD_DOMAIN, "Clip"): _first_alone,
    (STANDARD_DOMAIN, "DequantizeLinear"): _quantize,
    (STANDARD_DOMAIN, "Dropout"): _dropout,
    (STANDARD_DOMAIN, "PRelu"): _prelu,
    (STANDARD_DOMAIN, "QuantizeLinear"): _quantize,
    (STANDARD_DOMAIN, "StringNormalizer"): _normalizes_strings,
    (MICROSOFT_DOMAIN, "BiasGelu"): _bias,
    (MICROSOFT_DOMAIN, "DequantizeLinear"): _quantize,
    (MICROSOFT_DOMAIN, "FastGelu"): _bias,
    (MICROSOFT_DOMAIN, "Gelu"): elementwise,
    (MICROSOFT_DOMAIN, "QuantizeLinear"): _quantize,
    (MICROSOFT_DOMAIN, "QuickGelu"): elementwise,
    (CLASSICAL_DOMAIN, "Binarizer"): elementwise,
}
