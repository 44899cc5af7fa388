"""How a shadow's outputs compare with the baseline's. Pure.

Floats agree within a tolerance, scores by their winners, and integers, booleans and strings only where they are equal.
What differs is measured in float64 whatever the outputs' own type, a block at a time, so that the memory this takes
does not grow with the outputs. No pair of arrays of the wire's types raises or warns.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from turnout.registry.manifest import Tolerance
from turnout.registry.signature import DataType, Signature
from turnout.serving.tensor import Array

DEFAULT_TOLERANCES: Mapping[DataType, Tolerance] = MappingProxyType(
    {
        DataType.FLOAT64: Tolerance(1e-7, 1e-5),
        DataType.FLOAT32: Tolerance(1e-5, 1e-3),
        DataType.FLOAT16: Tolerance(1e-3, 1e-2),
        DataType.BFLOAT16: Tolerance(1e-2, 5e-2),
    }
)
"""What batching is proven with: kernels may sum in another order. Other types are compared exactly."""

_EXACT = Tolerance(0.0, 0.0)
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# OpenBLAS puts a dot product of more than 10,000 elements on every core (1.0 cores busy at 8,192 elements, 2.0 of 2 at
# 100,000), which live requests would feel.
_BLOCK = 8192

_Floats = NDArray[np.float64]
_Measures = tuple[float, float, float, float]  # max_abs, max_rel, rmse, cosine
_EQUAL: _Measures = (0.0, 0.0, 0.0, 1.0)
_UNMEASURED: _Measures = (math.nan, math.nan, math.nan, math.nan)


class MismatchKind(StrEnum):
    """In what an output disagrees."""

    MISSING = "missing"
    DTYPE = "dtype"
    SHAPE = "shape"
    NONFINITE = "nonfinite"
    VALUE = "value"
    TOP1 = "top1"
    EXACT = "exact"


# What clients do with an output breaks first by its form, then by NaN, then by another answer, then by another value.
_GRAVITY: Mapping[MismatchKind, float] = MappingProxyType(
    {
        MismatchKind.VALUE: 1.0,
        MismatchKind.TOP1: 2.0,
        MismatchKind.EXACT: 2.0,
        MismatchKind.NONFINITE: 3.0,
        MismatchKind.SHAPE: math.inf,
        MismatchKind.DTYPE: math.inf,
        MismatchKind.MISSING: math.inf,
    }
)


@dataclass(frozen=True, slots=True)
class OutputRule:
    """How one output is compared.

    Attributes:
        tolerance: How far floats may be apart; without a meaning for other types.
        scores: True where the last axis holds one score for each class, False where it does not, None to tell by the
            baseline's values. Only floats with two classes or more can be scores.
        strict_values: Scores must be within tolerance as well.
        top_k: How many of the highest classes are held against each other, 1 or more.
    """

    tolerance: Tolerance
    scores: bool | None = None
    strict_values: bool = False
    top_k: int = 5

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}, expected 1 or more")


_DEFAULT_RULES: Mapping[np.dtype[Any], OutputRule] = MappingProxyType(
    {np.dtype(dtype.value): OutputRule(tolerance) for dtype, tolerance in DEFAULT_TOLERANCES.items()}
)


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output of the baseline beside the shadow's of the same name.

    Measures are taken over the elements that are finite on both sides. Where they cannot be taken (another shape or
    type, strings that differ) they are NaN; where nothing differs they are 0, and `cosine` is 1.

    Attributes:
        name: The output's name.
        kind: In what it disagrees; None where it agrees.
        detail: The same in a short sentence without any value of a payload but differences; empty where it agrees.
        elements: Of the baseline's output.
        max_abs: Largest absolute difference.
        max_rel: Largest difference relative to the baseline's value, where that is not zero.
        rmse: Root of the mean squared difference.
        cosine: Of the angle between both, flattened; 1 for two zero vectors, 0 where only one is zero.
        differing: Elements beyond tolerance, or NaN or infinite on one side only; of exact outputs, unequal ones.
        top1: Share of rows (all but the last axis) with the same winner, ties within tolerance included; None where
            the output is no scores.
        top_k: Share of the shadow's k highest classes that are among the baseline's k highest, mean over the rows,
            k = min(rule's top_k, classes); None where the output is no scores.
        margin: By how much the baseline's winner leads the shadow's winner in the baseline's scores, in the
            disagreeing row where that is most; None where no row disagrees.
        severity: Orders disagreements, higher is worse; 0 where it agrees. A value beyond tolerance is 1 to 2 by how
            many times the tolerance it is off, another winner 2 to 3 by the margin, unequal elements 2 to 3 by their
            share, NaN or infinity on one side 3 to 4 by their share, and another form infinite.
    """

    name: str
    kind: MismatchKind | None
    detail: str
    elements: int
    max_abs: float
    max_rel: float
    rmse: float
    cosine: float
    differing: int
    top1: float | None = None
    top_k: float | None = None
    margin: float | None = None
    severity: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether nobody would call the two outputs different."""
        return self.kind is None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All outputs of one request, in the baseline's order."""

    outputs: tuple[OutputComparison, ...]

    @property
    def agrees(self) -> bool:
        """Whether every output agrees."""
        return all(output.kind is None for output in self.outputs)

    @property
    def severity(self) -> float:
        """That of the worst output; 0 where all agree."""
        return max((output.severity for output in self.outputs), default=0.0)

    @property
    def worst(self) -> OutputComparison | None:
        """The most severe disagreement, the first of equals; None where all agree."""
        disagreeing = [output for output in self.outputs if output.kind is not None]
        return max(disagreeing, key=lambda output: output.severity, default=None)


def rules_for(
    signature: Signature,
    tolerances: Mapping[str, Tolerance] = MappingProxyType({}),
    scores: Mapping[str, bool] = MappingProxyType({}),
    top_k: int = 5,
) -> Mapping[str, OutputRule]:
    """Returns the rule of each output of `signature`.

    Args:
        signature: The baseline's.
        tolerances: By output name, or by dtype for outputs not named. A name makes values count in scores too.
        scores: Whether an output holds scores, by its name; outputs not named are judged by their values.
        top_k: As in `OutputRule`.

    Raises:
        ValueError: `top_k` is below 1.
    """
    rules = {}
    for spec in signature.outputs:
        tolerance = tolerances.get(spec.name) or tolerances.get(spec.dtype) or DEFAULT_TOLERANCES.get(spec.dtype)
        rules[spec.name] = OutputRule(tolerance or _EXACT, scores.get(spec.name), spec.name in tolerances, top_k)
    return MappingProxyType(rules)


def compare(expected: Mapping[str, Array], actual: Mapping[str, Array], rules: Mapping[str, OutputRule]) -> Comparison:
    """Compares each output of the baseline with the shadow's.

    An output that only the shadow has is left out: no client of the baseline reads it.

    Args:
        expected: The baseline's outputs, by name.
        actual: The shadow's.
        rules: By output name; an output without one goes by the default tolerance of its dtype.
    """
    with np.errstate(all="ignore"):
        return Comparison(
            tuple(
                _compare_output(name, array, actual.get(name), rules.get(name) or _default_rule(array))
                for name, array in expected.items()
            )
        )


def _default_rule(array: Array) -> OutputRule:
    return _DEFAULT_RULES.get(array.dtype) or OutputRule(_EXACT)


def _compare_output(name: str, expected: Array, actual: Array | None, rule: OutputRule) -> OutputComparison:
    if actual is None:
        return _incomparable(name, MismatchKind.MISSING, "the shadow does not give it", expected)
    if expected.dtype != actual.dtype:
        return _incomparable(name, MismatchKind.DTYPE, f"{_form(actual)} instead of {_form(expected)}", expected)
    if expected.shape != actual.shape:
        return _incomparable(name, MismatchKind.SHAPE, f"{_form(actual)} instead of {_form(expected)}", expected)
    if expected.dtype.kind == "f" or expected.dtype == _BFLOAT16:
        return _compare_floats(name, expected, actual, rule)
    return _compare_exactly(name, expected, actual)


def _incomparable(name: str, kind: MismatchKind, detail: str, expected: Array) -> OutputComparison:
    severity = _severity(kind, 0.0)
    return OutputComparison(name, kind, detail, expected.size, *_UNMEASURED, expected.size, severity=severity)


def _form(array: Array) -> str:
    dtype = DataType.STRING if array.dtype == object else array.dtype.name
    return f"{dtype}[{', '.join(map(str, array.shape))}]"


def _severity(kind: MismatchKind, extent: float) -> float:
    return _GRAVITY[kind] + (1.0 if extent == math.inf else extent / (1.0 + extent))


def _compare_exactly(name: str, expected: Array, actual: Array) -> OutputComparison:
    size = expected.size
    differing = int(np.count_nonzero(expected != actual))
    if not differing:
        return OutputComparison(name, None, "", size, *_EQUAL, 0)
    textual = expected.dtype == object
    measures = _UNMEASURED if textual else _difference(expected, actual, _EXACT).measures
    detail = f"{differing} of {size} elements differ"
    severity = _severity(MismatchKind.EXACT, differing / size)
    return OutputComparison(name, MismatchKind.EXACT, detail, size, *measures, differing, severity=severity)


def _compare_floats(name: str, expected: Array, actual: Array, rule: OutputRule) -> OutputComparison:
    size = expected.size
    seen = _difference(expected, actual, rule.tolerance)
    ranks = _rank(expected, actual, rule, seen) if _holds_scores(expected, rule) else None
    kind, detail, extent = None, "", 0.0
    if seen.stray:
        kind, extent = MismatchKind.NONFINITE, seen.stray / size
        detail = f"{seen.stray} of {size} elements are NaN or infinite on one side only, or of opposite sign"
    elif ranks is not None and ranks.moved:
        kind, extent = MismatchKind.TOP1, ranks.margin
        which = "another winner" if ranks.rows == 1 else f"{ranks.moved} of {ranks.rows} rows have another winner"
        detail = f"{which}, by a margin of {'up to ' if ranks.moved > 1 else ''}{ranks.margin:.3g}"
    elif seen.beyond and (ranks is None or rule.strict_values):
        kind, extent = MismatchKind.VALUE, seen.times
        detail = f"{seen.beyond} of {size} elements are beyond tolerance, by up to {seen.times:.3g} times"
    severity = 0.0 if kind is None else _severity(kind, extent)
    differing = seen.beyond + seen.stray
    if ranks is None:
        return OutputComparison(name, kind, detail, size, *seen.measures, differing, severity=severity)
    top1, margin = 1.0 - ranks.moved / ranks.rows, ranks.margin or None
    return OutputComparison(name, kind, detail, size, *seen.measures, differing, top1, ranks.overlap, margin, severity)


@dataclass(frozen=True, slots=True)
class _Difference:
    """`measures` as in OutputComparison; `times`: largest quotient of a difference and its tolerance, beyond it."""

    measures: _Measures
    beyond: int
    stray: int
    times: float
    finite: bool


def _difference(expected: Array, actual: Array, tolerance: Tolerance) -> _Difference:
    e, a = expected.reshape(-1), actual.reshape(-1)
    divisor_e, divisor_a = _divisor(e), _divisor(a)
    max_abs = max_rel = times = rms = ea = ee = aa = 0.0
    count = beyond = stray = 0
    finite = True
    for start in range(0, e.size, _BLOCK):
        block_e, block_a = e[start : start + _BLOCK], a[start : start + _BLOCK]
        x, y = block_e.astype(np.float64), block_a.astype(np.float64)
        d = _wide_distance(block_e, block_a) if e.dtype.kind in "iu" else np.abs(x - y)
        largest = float(np.maximum.reduce(d))
        if not math.isfinite(largest):
            finite = False
            stray += int(np.count_nonzero(_stray(x, y)))
            both = np.isfinite(x) & np.isfinite(y)
            x, y, d = x[both], y[both], d[both]
            largest = float(d.max(initial=0.0))
        if largest > 0.0:
            max_abs = max(max_abs, largest)
            size = np.abs(x)
            relative = float(np.maximum.reduce(d / size))
            if not math.isfinite(relative):
                relative = float((d[size > 0.0] / size[size > 0.0]).max(initial=0.0))
            max_rel = max(max_rel, relative)
            if largest > tolerance.atol:
                bound = tolerance.atol + tolerance.rtol * size
                over = d > bound
                if excess := int(np.count_nonzero(over)):
                    beyond += excess
                    times = max(times, float((d[over] / bound[over]).max()))
        if d.size:
            count += d.size
            share = d.size / count
            rms = math.hypot(rms * math.sqrt(1.0 - share), _rms(d, largest) * math.sqrt(share))
        if divisor_e != 1.0 or divisor_a != 1.0:
            x, y = x / divisor_e, y / divisor_a
        ea, ee, aa = ea + float(np.dot(x, y)), ee + float(np.dot(x, x)), aa + float(np.dot(y, y))
    cosine = 1.0 if max_abs == 0.0 else 0.0
    if max_abs and ee and aa:
        cosine = min(1.0, max(-1.0, ea / (math.sqrt(ee) * math.sqrt(aa))))
    return _Difference((max_abs, max_rel, rms, cosine), beyond, stray, times, finite)


def _divisor(values: Array) -> float:
    """What brings the squares of `values` into float64's range; only float64 itself can leave it."""
    if values.dtype != np.float64 or not values.size:
        return 1.0
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    return 1.0 if largest == 0.0 or 1e-100 < largest < 1e100 else largest


def _wide_distance(e: Array, a: Array) -> _Floats:
    """|e - a| of integers. int64 and uint64 wrap around to the right uint64 when the lower one is taken away."""
    wide = np.int64 if e.dtype.kind == "i" else np.uint64
    higher, lower = np.maximum(e, a).astype(wide), np.minimum(e, a).astype(wide)
    return (higher.view(np.uint64) - lower.view(np.uint64)).astype(np.float64)


def _rms(d: _Floats, largest: float) -> float:
    mean_square = float(np.dot(d, d)) / d.size
    if 1e-200 < mean_square < math.inf or largest in (0.0, math.inf):
        return math.sqrt(mean_square)
    d = d / largest
    return largest * math.sqrt(float(np.dot(d, d)) / d.size)


def _stray(x: _Floats, y: _Floats) -> NDArray[np.bool_]:
    """Where one is not finite and the other is not the same."""
    same = (np.isfinite(x) & np.isfinite(y)) | (x == y) | (np.isnan(x) & np.isnan(y))
    stray: NDArray[np.bool_] = np.logical_not(same)
    return stray


def _holds_scores(expected: Array, rule: OutputRule) -> bool:
    if rule.scores is False or expected.ndim == 0 or expected.shape[-1] < 2 or expected.size == 0:
        return False
    if rule.scores is not None:
        return True
    if not np.minimum.reduce(expected, axis=None) >= 0:  # false for NaN too
        return False
    # Rounding to bfloat16 alone moves a sum of 1 by up to 2e-3.
    slack = 1e-2 if expected.dtype == _BFLOAT16 else 1e-3
    sums = np.add.reduce(expected, axis=-1, dtype=np.float64)
    return bool(np.abs(sums - 1.0).max() <= slack)


@dataclass(frozen=True, slots=True)
class _Ranks:
    """`moved` of `rows` have another winner, at most by `margin`; `overlap` is the mean of the rows' top-k overlap."""

    rows: int
    moved: int
    margin: float
    overlap: float


def _rank(expected: Array, actual: Array, rule: OutputRule, seen: _Difference) -> _Ranks:
    classes = expected.shape[-1]
    e, a = expected.reshape(-1, classes), actual.reshape(-1, classes)
    rows = len(e)
    if seen.finite and seen.measures[0] == 0.0:
        return _Ranks(rows, 0, 0.0, 1.0)
    k = min(rule.top_k, classes)
    step = max(1, _BLOCK // classes)
    moved = hits = 0
    margin = 0.0
    for start in range(0, rows, step):
        x, y = e[start : start + step].astype(np.float64), a[start : start + step].astype(np.float64)
        lost: NDArray[np.bool_] = np.zeros(len(x), np.bool_)
        if not seen.finite:
            lost = np.asarray(_stray(x, y).any(axis=1))
            x[np.isnan(x)] = y[np.isnan(y)] = -math.inf
        if seen.beyond or seen.stray:
            leads = _leads(x, y, rule.tolerance)
            margin = max(margin, float(leads.max()))
            moved += int(np.count_nonzero(lost | (leads > 0.0)))
        if k < classes:
            least = np.partition(x, classes - k, axis=1)[:, classes - k, None]
            highest = np.argpartition(y, classes - k, axis=1)[:, classes - k :]
            hits += int(np.count_nonzero(x[np.arange(len(x))[:, None], highest] >= least))
    return _Ranks(rows, moved, margin, hits / (rows * k) if k < classes else 1.0)


def _leads(x: _Floats, y: _Floats, tolerance: Tolerance) -> _Floats:
    """By how much the winner of each row of `x` leads that of `y` in `x`; 0 where they tie in `x` or in `y`."""
    row, first, second = np.arange(len(x)), x.argmax(axis=1), y.argmax(axis=1)
    x_first, x_second, y_first, y_second = x[row, first], x[row, second], y[row, first], y[row, second]
    # The larger score's tolerance on either side: then two rows whose values are all within tolerance always tie.
    bound_x = tolerance.atol + tolerance.rtol * np.maximum(np.abs(x_first), np.abs(x_second))
    bound_y = tolerance.atol + tolerance.rtol * np.maximum(np.abs(y_first), np.abs(y_second))
    apart = (x_first - x_second > bound_x) & (y_second - y_first > bound_y)
    return np.where(apart, x_first - x_second, 0.0)
