"""Measures how two arrays differ, and how two rankings of scores differ. Pure.

Differences are measured in float64 for all types, one block at a time, so that the memory needed does not grow with the
arrays. Nothing raises or warns.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from turnout.registry.compatibility.agreement import distance
from turnout.registry.manifest.manifest import Tolerance
from turnout.serving.sessions.tensor import Array

Measures = tuple[float, float, float, float]
"""max_abs, max_rel, rmse, cosine."""

_Floats = NDArray[np.float64]

# OpenBLAS uses every core for a dot product of more than 10,000 elements (1.0 cores busy at 8,192 elements, 2.0 of 2 at
# 100,000), which would slow live requests down.
_BLOCK = 8192


@dataclass(frozen=True, slots=True)
class ArrayDifference:
    """How two arrays differ.

    Attributes:
        measures: max_abs, max_rel, rmse and cosine of the elements that are finite in both.
        beyond: Number of elements beyond tolerance.
        stray: Number of elements that are not finite in one array and differ in the other.
        times: Largest ratio of a difference to its tolerance, among the elements beyond it; 0 if there are none.
        finite: Whether all elements of both are finite.
    """

    measures: Measures
    beyond: int
    stray: int
    times: float
    finite: bool


def difference(expected: Array, actual: Array, tolerance: Tolerance) -> ArrayDifference:
    """Measures the difference of two numeric arrays of the same dtype and shape."""
    e, a = expected.reshape(-1), actual.reshape(-1)
    divisor_e, divisor_a = _divisor(e), _divisor(a)
    max_abs = max_rel = times = rms = ea = ee = aa = 0.0
    count = beyond = stray = 0
    finite = True
    for start in range(0, e.size, _BLOCK):
        block_e, block_a = e[start : start + _BLOCK], a[start : start + _BLOCK]
        x, y = block_e.astype(np.float64), block_a.astype(np.float64)
        d = distance(block_e, block_a) if e.dtype.kind in "iu" else np.abs(x - y)
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
    return ArrayDifference((max_abs, max_rel, rms, cosine), beyond, stray, times, finite)


def _divisor(values: Array) -> float:
    """Returns a divisor that keeps the squares of `values` within float64's range, which only float64 can exceed."""
    if values.dtype != np.float64 or not values.size:
        return 1.0
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    return 1.0 if largest == 0.0 or 1e-100 < largest < 1e100 else largest


def _rms(d: _Floats, largest: float) -> float:
    mean_square = float(np.dot(d, d)) / d.size
    if 1e-200 < mean_square < math.inf or largest in (0.0, math.inf):
        return math.sqrt(mean_square)
    d = d / largest
    return largest * math.sqrt(float(np.dot(d, d)) / d.size)


def _stray(x: _Floats, y: _Floats) -> NDArray[np.bool_]:
    """Returns where one is not finite and the other is not the same."""
    same = (np.isfinite(x) & np.isfinite(y)) | (x == y) | (np.isnan(x) & np.isnan(y))
    stray: NDArray[np.bool_] = np.logical_not(same)
    return stray


@dataclass(frozen=True, slots=True)
class Ranks:
    """How rankings of scores differ.

    Attributes:
        moved: Number of rows with another winner.
        margin: Largest lead of the old winner over the new one.
        overlap: Overlap of the k highest classes, 0 to 1, averaged over the rows.
    """

    rows: int
    moved: int
    margin: float
    overlap: float


def rank(expected: Array, actual: Array, tolerance: Tolerance, top_k: int, seen: ArrayDifference) -> Ranks:
    """Compares rankings of scores.

    Args:
        expected: Scores, with two or more classes on the last axis.
        actual: Scores of the same dtype and shape.
        tolerance: Scores that are closer than this are tied.
        top_k: Number of highest classes in `overlap`.
        seen: Difference of the two arrays.
    """
    classes = expected.shape[-1]
    e, a = expected.reshape(-1, classes), actual.reshape(-1, classes)
    rows = len(e)
    if seen.finite and seen.measures[0] == 0.0:
        return Ranks(rows, 0, 0.0, 1.0)
    k = min(top_k, classes)
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
            leads = _leads(x, y, tolerance)
            margin = max(margin, float(leads.max()))
            moved += int(np.count_nonzero(lost | (leads > 0.0)))
        if k < classes:
            least = np.partition(x, classes - k, axis=1)[:, classes - k, None]
            highest = np.argpartition(y, classes - k, axis=1)[:, classes - k :]
            hits += int(np.count_nonzero(x[np.arange(len(x))[:, None], highest] >= least))
    return Ranks(rows, moved, margin, hits / (rows * k) if k < classes else 1.0)


def _leads(x: _Floats, y: _Floats, tolerance: Tolerance) -> _Floats:
    """Returns each row's lead in `x` of the winner of `x` over the winner of `y`; 0 if they tie in `x` or in `y`."""
    row, first, second = np.arange(len(x)), x.argmax(axis=1), y.argmax(axis=1)
    x_first, x_second, y_first, y_second = x[row, first], x[row, second], y[row, first], y[row, second]
    # The larger score's tolerance on either side, so that two rows whose values are all within tolerance always tie.
    bound_x = tolerance.atol + tolerance.rtol * np.maximum(np.abs(x_first), np.abs(x_second))
    bound_y = tolerance.atol + tolerance.rtol * np.maximum(np.abs(y_first), np.abs(y_second))
    apart = (x_first - x_second > bound_x) & (y_second - y_first > bound_y)
    return np.where(apart, x_first - x_second, 0.0)
