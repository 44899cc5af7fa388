"""Arithmetic on single elements: integers that may be expressions of sizes. Pure.

Floating-point numbers are constants that are passed on but never computed with, since the result of a kernel depends on
its precision.
"""

from collections.abc import Callable, Mapping
from functools import partial

from turnout.serving.rowwise.sizes import Size, derived
from turnout.serving.rowwise.states import ROW_COUNT, Element, counts_rows

Operation = Callable[..., Element]


def _operation(
    name: str, exact: Callable[[Size, Size], Size | None], *, keeps_sign: bool = True, symmetric: bool = False
) -> Operation:
    """Returns an operation on two numbers, whose result is a symbol derived from them where `exact` gives none.

    Args:
        name: Name of the operation.
        exact: Returns the result for two integers if it can be expressed.
        keeps_sign: Whether the result is not negative if the numbers are not.
        symmetric: Whether the order of the numbers makes no difference.
    """

    def apply(one: Element, other: Element) -> Element:
        if isinstance(one, Size) and isinstance(other, Size) and (found := exact(one, other)) is not None:
            return found
        ordered = sorted((one, other), key=str) if symmetric else (one, other)
        return _otherwise(name, keeps_sign, *ordered)

    return apply


def _sum(one: Size, other: Size) -> Size | None:
    if one.symbols == other.symbols or not other.number:
        return Size(one.number + other.number, one.symbols) if other.number else one
    return None if one.number else other


def _difference(one: Size, other: Size) -> Size | None:
    if one.symbols == other.symbols:
        left = one.number - other.number
        return Size(left, one.symbols) if left else Size(0)
    return None if other.number else one


def _quotient(one: Size, other: Size) -> Size | None:
    """Rounds towards 0 as in C. Division by 0 fails the run, so any result is right."""
    if not other.number:
        return None
    if (exact := one / other) is not None:
        return exact
    if one.constant is None or other.constant is None:
        return None
    quotient = abs(one.constant) // abs(other.constant)
    return Size(quotient if (one.constant < 0) == (other.constant < 0) else -quotient)


def _remainder(one: Size, other: Size) -> Size | None:
    """Has the sign of the divisor."""
    return Size(one.constant % other.constant) if one.constant is not None and other.constant else None


def _extreme(pick: Callable[[int, int], int], one: Size, other: Size) -> Size | None:
    if one == other:
        return one
    return None if one.constant is None or other.constant is None else Size(pick(one.constant, other.constant))


add = _operation("add", _sum, symmetric=True)
subtract = _operation("subtract", _difference, keeps_sign=False)
multiply = _operation("multiply", lambda one, other: one * other, symmetric=True)
divide = _operation("divide", _quotient)
remainder = _operation("remainder", _remainder)
smallest = _operation("smallest", partial(_extreme, min), symmetric=True)
largest = _operation("largest", partial(_extreme, max), symmetric=True)


def negate(one: Element) -> Element:
    """Returns the negated number."""
    return Size(-one.number, one.symbols) if isinstance(one, Size) else _otherwise("negate", False, one)


def equal(one: Element, other: Element) -> Element:
    """Returns 1 if the numbers are equal, 0 if they differ, or an unknown truth value."""
    if isinstance(one, Size) and isinstance(other, Size):
        if one == other:
            return Size(1)
        if one.constant is not None and other.constant is not None:
            return Size(0)
        for size, number in ((one, other.constant), (other, one.constant)):
            if number is not None and number < _least(size):
                return Size(0)
    return _truth(one, other)


def less(one: Element, other: Element) -> Element:
    """Returns 1 if `one` is less than `other`, 0 if it is not, or an unknown truth value."""
    if isinstance(one, Size) and isinstance(other, Size):
        if one.constant is not None and other.constant is not None:
            return Size(int(one.constant < other.constant))
        if other.constant is not None and other.constant <= _least(one):
            return Size(0)
        if one.constant is not None and one.constant < _least(other):
            return Size(1)
    return _truth(one, other)


def less_or_equal(one: Element, other: Element) -> Element:
    """Returns 1 if `one` is less than or equal to `other`, 0 if it is not, or an unknown truth value."""
    return inverse(less(other, one))


def both(one: Element, other: Element) -> Element:
    """Returns the logical and."""
    if Size(0) in (one, other):
        return Size(0)
    return Size(1) if one == other == Size(1) else _truth(one, other)


def either(one: Element, other: Element) -> Element:
    """Returns the logical or."""
    if Size(1) in (one, other):
        return Size(1)
    return Size(0) if one == other == Size(0) else _truth(one, other)


def inverse(one: Element) -> Element:
    """Returns the logical negation."""
    return Size(1 - one.number) if one in (Size(0), Size(1)) and isinstance(one, Size) else _truth(one)


def choose(condition: Element, one: Element, other: Element) -> Element:
    """Returns `one` if the condition is true, otherwise `other`."""
    if isinstance(condition, Size) and condition.constant is not None:
        return one if condition.constant else other
    if isinstance(one, Size) and one == other:
        return one
    return _truth(condition, one, other)


def magnitude(one: Element) -> Element:
    """Returns the absolute value."""
    if isinstance(one, Size) and (one.is_size or one.constant is not None):
        return Size(abs(one.number), one.symbols)
    return _otherwise("magnitude", True, one)


def as_int64(one: Element) -> Element:
    """Casts a number to int64."""
    if isinstance(one, float):
        return Size(int(one)) if abs(one) < 2**53 else None
    return one


def as_int32(one: Element) -> Element:
    """Casts a number to int32. A number that does not fit wraps around and becomes unknown."""
    return within_int32(as_int64(one))


def within_int32(one: Element) -> Element:
    """Returns a number if it is known to fit into 32 bits, as sizes are assumed to; otherwise an unknown number."""
    return one if not isinstance(one, Size) or abs(one.number) < 2**31 else _truth(one)


def as_fraction(one: Element) -> Element:
    """Casts a number to a floating-point type. Expressions are dropped, since floating-point arithmetic differs."""
    if isinstance(one, Size):
        return float(one.number) if one.constant is not None and abs(one.number) < 2**24 else _truth(one)
    return one


def as_truth(one: Element) -> Element:
    """Casts a number to a boolean."""
    if isinstance(one, Size) and _least(one) > 0:
        return Size(1)
    if isinstance(one, float) or (isinstance(one, Size) and one.constant is not None):
        return Size(int(one != 0.0 and one != Size(0)))
    return _truth(one)


OPERATIONS: Mapping[str, Operation] = {
    "Add": add,
    "Sub": subtract,
    "Mul": multiply,
    "Div": divide,
    "Mod": remainder,
    "Min": smallest,
    "Max": largest,
    "Neg": negate,
    "Abs": magnitude,
    "Equal": equal,
    "Less": less,
    "LessOrEqual": less_or_equal,
    "Greater": lambda one, other: less(other, one),
    "GreaterOrEqual": lambda one, other: less_or_equal(other, one),
    "And": both,
    "Or": either,
    "Not": inverse,
    "Where": choose,
}
"""Operations by ONNX operator. Each takes as many elements as the operator takes tensors."""


def _least(size: Size) -> int:
    """Returns a lower bound of a number; the number of rows is at least 1."""
    if size.constant is not None:
        return size.constant
    if size.rows == len(size.symbols) and size.number > 0:
        return size.number
    return 0 if size.is_size else -(2**63)


def _otherwise(name: str, keeps_sign: bool, *operands: Element) -> Element:
    """Returns a result that no rule above gives: a symbol derived from the operands if they are integers."""
    if any(map(counts_rows, operands)):
        return ROW_COUNT
    if all(isinstance(operand, Size) for operand in operands):
        size = keeps_sign and all(isinstance(operand, Size) and operand.is_size for operand in operands)
        return derived(name, *operands, size=size)
    return None


def _truth(*operands: Element) -> Element:
    return ROW_COUNT if any(map(counts_rows, operands)) else None
