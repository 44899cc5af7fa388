"""Compares a shadow's outputs with the baseline's. Pure.

Floats agree within a tolerance, scores agree if their winners do, and integers, booleans and strings must be equal. No
pair of arrays of the supported types causes an exception or a warning.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from turnout.registry.manifest.manifest import DEFAULT_TOLERANCES, Tolerance
from turnout.registry.manifest.signature import DataType, Signature
from turnout.routing.shadow.differences import Measures, difference, rank
from turnout.serving.sessions.tensor import Array

_EXACT = Tolerance(0.0, 0.0)
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_EQUAL: Measures = (0.0, 0.0, 0.0, 1.0)
_UNMEASURED: Measures = (math.nan, math.nan, math.nan, math.nan)


class MismatchKind(StrEnum):
    """How an output disagrees."""

    MISSING = "missing"
    DTYPE = "dtype"
    SHAPE = "shape"
    NONFINITE = "nonfinite"
    VALUE = "value"
    TOP1 = "top1"
    EXACT = "exact"


_VALUES = (MismatchKind.VALUE, MismatchKind.TOP1, MismatchKind.EXACT)

# The order in which disagreements break clients: first the form, then NaN, then another answer, then another value.
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
        tolerance: Maximum difference between floats; ignored for other types.
        scores: Whether the last axis contains one score for each class; None to infer it from the baseline's values.
            Only floats with two classes or more can be scores.
        strict_values: Whether scores must also be within tolerance.
        top_k: Number of highest classes that are compared, 1 or more.
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
_EXACTLY = OutputRule(_EXACT)


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output of the baseline compared with the shadow's output of the same name.

    Measures are taken over the elements that are finite on both sides. If they cannot be taken (another shape or type,
    or different strings), they are NaN. If nothing differs, they are 0, and `cosine` is 1.

    Attributes:
        kind: How it disagrees; None if it agrees.
        detail: A short sentence about the disagreement, which contains differences but no values of a payload; empty if
            it agrees.
        max_abs: Largest absolute difference.
        max_rel: Largest difference relative to the baseline's value, where that is not zero.
        rmse: Root mean square of the differences.
        cosine: Cosine of the angle between the flattened outputs; 1 for two zero vectors, 0 if only one is zero.
        differing: Elements beyond tolerance, or NaN or infinite on one side only; for exact outputs, unequal elements.
        top1: Share of rows (all but the last axis) with the same winner, ties within tolerance included; None if
            the output is not scores.
        top_k: Share of the shadow's k highest classes that are among the baseline's k highest, averaged over the rows,
            with k = min(rule's top_k, classes); None if the output is not scores.
        margin: Lead of the baseline's winner over the shadow's winner in the baseline's scores, in the disagreeing row
            where it is largest; None if no row disagrees.
        severity: Orders disagreements, higher is worse; 0 if it agrees. A value beyond tolerance is 1 to 2 by the ratio
            of difference and tolerance, another winner 2 to 3 by the margin, unequal elements 2 to 3 by their share,
            NaN or infinity on one side 3 to 4 by their share, and another form infinite.
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
        """Whether the two outputs agree."""
        return self.kind is None


@dataclass(frozen=True, slots=True)
class AnswerComparison:
    """The comparisons of all outputs of one request, in the baseline's order."""

    outputs: tuple[OutputComparison, ...]

    @property
    def agrees(self) -> bool:
        """Whether every output agrees."""
        return all(output.kind is None for output in self.outputs)

    @property
    def differing(self) -> tuple[str, ...]:
        """The outputs that disagree: by name if values differ, by name and kind if the disagreement is worse."""
        return tuple(
            output.name if output.kind in _VALUES else f"{output.name} ({output.kind})"
            for output in self.outputs
            if output.kind is not None
        )

    @property
    def severity(self) -> float:
        """Severity of the worst output; 0 if all agree."""
        return max((output.severity for output in self.outputs), default=0.0)

    @property
    def worst(self) -> OutputComparison | None:
        """The most severe disagreement, the first if several are equal; None if all agree."""
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
        signature: Signature of the baseline.
        tolerances: Tolerances by output name, or by dtype for outputs that are not named. Values of scores are only
            checked for outputs that are named.
        scores: Whether an output contains scores, by its name. For other outputs it is inferred from their values.
        top_k: As in `OutputRule`.

    Raises:
        ValueError: `top_k` is below 1.
    """
    rules = {}
    for spec in signature.outputs:
        tolerance = tolerances.get(spec.name) or tolerances.get(spec.dtype) or DEFAULT_TOLERANCES.get(spec.dtype)
        rules[spec.name] = OutputRule(tolerance or _EXACT, scores.get(spec.name), spec.name in tolerances, top_k)
    return MappingProxyType(rules)


def compare(
    expected: Mapping[str, Array], actual: Mapping[str, Array], rules: Mapping[str, OutputRule]
) -> AnswerComparison:
    """Compares each output of the baseline with the shadow's.

    An output without a rule uses the default tolerance of its dtype.

    Outputs that only the shadow has are ignored, since no client of the baseline reads them.
    """
    with np.errstate(all="ignore"):
        return AnswerComparison(
            tuple(
                _compare_output(
                    name, array, actual.get(name), rules.get(name) or _DEFAULT_RULES.get(array.dtype, _EXACTLY)
                )
                for name, array in expected.items()
            )
        )


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
    measures = _UNMEASURED if textual else difference(expected, actual, _EXACT).measures
    detail = f"{differing} of {size} elements differ"
    severity = _severity(MismatchKind.EXACT, differing / size)
    return OutputComparison(name, MismatchKind.EXACT, detail, size, *measures, differing, severity=severity)


def _compare_floats(name: str, expected: Array, actual: Array, rule: OutputRule) -> OutputComparison:
    size = expected.size
    seen = difference(expected, actual, rule.tolerance)
    ranks = rank(expected, actual, rule.tolerance, rule.top_k, seen) if _holds_scores(expected, rule) else None
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


def _holds_scores(expected: Array, rule: OutputRule) -> bool:
    if rule.scores is False or expected.ndim == 0 or expected.shape[-1] < 2 or expected.size == 0:
        return False
    if rule.scores is not None:
        return True
    if not np.minimum.reduce(expected, axis=None) >= 0:  # false for NaN too
        return False
    # Rounding to bfloat16 alone changes a sum of 1 by up to 2e-3.
    slack = 1e-2 if expected.dtype == _BFLOAT16 else 1e-3
    sums = np.add.reduce(expected, axis=-1, dtype=np.float64)
    return bool(np.abs(sums - 1.0).max() <= slack)
