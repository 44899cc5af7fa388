"""Measures how far apart answers are that should be the same. Without side effects."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.registry.compatibility.sandbox import ExampleResult
from turnout.registry.manifest.manifest import DEFAULT_TOLERANCES, Manifest, Tolerance
from turnout.registry.manifest.signature import TensorSpec

CLOSE_RELATIVE = 1e-3
CLOSE_TO_LARGEST = 1e-6
"""Two answers are close if they differ by at most this fraction of the value plus this fraction of the output's largest
value. With an absolute bound alone, saturated scores would be close whatever the weights are."""


@dataclass(frozen=True, slots=True)
class AnswerAgreement:
    """Comparison of the answers of two versions to the same examples.

    Attributes:
        examples: Number of examples that both versions answered.
        golden: Number of golden cases among these.
        within: Whether all outputs of all examples were within tolerance, and no example was answered by only one of
            the versions.
        close: Whether all outputs were close, as defined by `CLOSE_RELATIVE`.
        furthest: Description of the output with the largest absolute difference; "" if there is no difference.
        largest: That difference; infinite if shapes or text differ.
    """

    examples: int = 0
    golden: int = 0
    within: bool = True
    close: bool = True
    furthest: str = ""
    largest: float = 0.0


def tolerance_of(manifest: Manifest, spec: TensorSpec) -> Tolerance | None:
    """Returns the tolerance of an output: declared by name, else declared by dtype, else from `DEFAULT_TOLERANCES`."""
    return (
        manifest.tolerances.get(spec.name) or manifest.tolerances.get(spec.dtype) or DEFAULT_TOLERANCES.get(spec.dtype)
    )


def differs(got: NDArray[Any], expected: NDArray[Any], tolerance: Tolerance | None) -> bool:
    """Returns whether two values of an output differ by more than `tolerance` allows (None: they must be equal)."""
    if got.shape != expected.shape:
        return True
    if tolerance is None or got.dtype == object or expected.dtype == object:
        return not _equal(got, expected)
    if _same_integers(got, expected):
        allowed = tolerance.atol + tolerance.rtol * np.abs(expected.astype(np.float64))
        return bool(np.any(distance(got, expected) > allowed))
    return not np.allclose(
        got.astype(np.float64), expected.astype(np.float64), rtol=tolerance.rtol, atol=tolerance.atol, equal_nan=True
    )


def largest_difference(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Returns the largest absolute difference; infinite if shapes or text differ, or only one value is NaN."""
    if got.shape != expected.shape:
        return float("inf")
    if got.dtype == object or expected.dtype == object:
        return 0.0 if np.array_equal(got, expected) else float("inf")
    if _same_integers(got, expected):
        return float(distance(got, expected).max(initial=0.0))
    one, other = got.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        return float("inf")
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        apart = np.where(one == other, 0.0, np.abs(one - other))
    return float(np.nanmax(apart, initial=0.0)) if apart.size else 0.0


def _equal(got: NDArray[Any], expected: NDArray[Any]) -> bool:
    if got.dtype.kind in "iu" and expected.dtype.kind == "f":
        # NumPy would compare both as float64, which takes integers beyond 2**53 for their neighbours.
        with np.errstate(invalid="ignore"):
            whole = expected.astype(got.dtype)
        return bool(np.array_equal(whole.astype(expected.dtype), expected) and np.array_equal(got, whole))
    return bool(np.array_equal(got, expected))


def _same_integers(got: NDArray[Any], expected: NDArray[Any]) -> bool:
    return got.dtype == expected.dtype and got.dtype.kind in "iu"


def distance(got: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the differences of integers of one type, which are not rounded before they are subtracted."""
    high, low = np.maximum(got, expected), np.minimum(got, expected)
    # Modulo 2**64, so that the difference of an int64's extremes fits too.
    apart: NDArray[np.float64] = (high.astype(np.uint64) - low.astype(np.uint64)).astype(np.float64)
    return apart


def agree(manifest: Manifest, first: Iterable[ExampleResult], second: Iterable[ExampleResult]) -> AnswerAgreement:
    """Compares the answers of two versions with one signature to the same examples. Those of `first` are expected."""
    others = {answer.example: answer for answer in second}
    examples = golden = 0
    within = close = True
    furthest, largest = "", 0.0
    for expected in first:
        got = others.get(expected.example)
        if got is None or (expected.fault and got.fault):
            continue
        if expected.fault or got.fault:
            within = close = False
            furthest, largest = f"one of them fails on {expected.example}", float("inf")
            continue
        examples += 1
        golden += expected.golden
        for spec in manifest.signature.outputs:
            if spec.name not in expected.outputs or spec.name not in got.outputs:
                continue
            one, other = expected.outputs[spec.name], got.outputs[spec.name]
            apart = largest_difference(other, one)
            if apart > largest:
                furthest, largest = f"output {spec.name} of {expected.example}", apart
            within = within and not differs(other, one, tolerance_of(manifest, spec))
            close = close and _close(other, one)
    return AnswerAgreement(examples, golden, within, close, furthest, largest)


def _close(got: NDArray[Any], expected: NDArray[Any]) -> bool:
    if got.shape != expected.shape:
        return False
    if got.dtype.kind != "f" or expected.dtype.kind != "f":
        return bool(np.array_equal(got, expected))
    finite = np.abs(expected[np.isfinite(expected)])
    largest = float(finite.max(initial=0.0))
    return bool(np.allclose(got, expected, rtol=CLOSE_RELATIVE, atol=CLOSE_TO_LARGEST * largest, equal_nan=True))
