"""Compares a version's answers to golden cases with the expected answers. Without side effects.

Used wherever the correctness of a version matters: by the gate `golden` before it is published, and by a load that
would run it with less precision.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.registry.compatibility.agreement import differs, largest_difference, tolerance_of
from turnout.registry.compatibility.sandbox import ExampleResult
from turnout.registry.manifest.manifest import Manifest, Tolerance
from turnout.registry.storage.golden import GoldenCase, class_numbers

_COMPARED = "biufO"
"""Kinds of NumPy's dtypes that are compared with outputs: numbers, and text."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How many labelled rows a version classifies correctly: the right class has the highest score."""

    right: int = 0
    rows: int = 0

    @property
    def ratio(self) -> float:
        """Fraction of correct rows, 0 to 1; 1.0 if there are no rows."""
        return self.right / self.rows if self.rows else 1.0


def answer_faults(manifest: Manifest, case: GoldenCase, answer: ExampleResult) -> Sequence[str]:
    """Returns how an answer to a golden case differs from what the case expects, one sentence per difference."""
    if answer.fault:
        return [f"case {case.name} cannot be run: {answer.fault}"]
    faults = [
        f"output {spec.name} {fault}"
        for spec in manifest.signature.outputs
        if spec.name in case.outputs
        and (fault := _fault(answer.outputs[spec.name], case.outputs[spec.name], tolerance_of(manifest, spec)))
    ]
    for name, labels in case.labels.items():
        if fault := _label_fault(answer.outputs[name], class_numbers(labels, manifest.labels.get(name))):
            faults.append(f"output {name} {fault}")
    return [f"case {case.name}: {fault}" for fault in faults]


def _fault(got: NDArray[Any], expected: NDArray[Any], tolerance: Tolerance | None) -> str:
    """Returns how an output differs from the expected one, as a phrase that follows its name; "" if it does not."""
    # Other types, such as complex numbers and dates, would be compared by a part of their values.
    if expected.dtype.kind not in _COMPARED or (expected.dtype == object) != (got.dtype == object):
        return f"is {_kind(got)}, and cannot be compared with {_kind(expected)}"
    if got.shape != expected.shape:
        return f"has shape {got.shape}, expected {expected.shape}"
    if not differs(got, expected, tolerance):
        return ""
    apart = largest_difference(got, expected)
    if not apart:
        return f"is {_kind(got)}, and not exactly what is expected as {_kind(expected)}"
    bound = "must be equal" if tolerance is None else f"allowed {tolerance.atol:g} + {tolerance.rtol:g} * value"
    return f"is off by {apart:.3g} ({bound}){'' if np.isfinite(apart) else _first_difference(got, expected)}"


def _first_difference(got: NDArray[Any], expected: NDArray[Any]) -> str:
    """Describes the first elements whose difference is not a number."""
    if got.dtype == object:
        unlike = got != expected
    else:
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            unlike = (got != expected) & ~np.isfinite(got - expected) & ~(np.isnan(got) & np.isnan(expected))
    place = tuple(int(index) for index in np.argwhere(unlike)[0])
    one, other = (f"{str(array[place])[:64]!r}" if array.dtype == object else f"{array[place]:g}"
                  for array in (got, expected))  # fmt: skip
    return f": {one} instead of {other} at {list(place)}"


def _kind(array: NDArray[Any]) -> str:
    return "text" if array.dtype == object else str(array.dtype)


def _label_fault(got: NDArray[Any], wanted: NDArray[np.int64]) -> str:
    """Returns why an output has no score for each labelled row and class, as a phrase; "" if it has."""
    if got.dtype == object:
        return "is text, and labels are compared with scores"
    if got.ndim < 2 or got.shape[0] != len(wanted):
        return f"has shape {got.shape} for {len(wanted)} labels"
    classes = math.prod(got.shape[1:])
    if none := [int(label) for label in wanted if not 0 <= label < classes]:
        return f"has {classes} classes, and the label {none[0]} is none of them"
    return ""


def accuracy_of(
    manifest: Manifest, cases: Mapping[str, GoldenCase], answers: Mapping[str, ExampleResult]
) -> Accuracy | None:
    """Returns how many labelled rows of golden cases were answered correctly; None if an answer has no scores for them.

    Both mappings are keyed by example. A row with a score that is not a number is wrong.
    """
    right = rows = 0
    for path, case in cases.items():
        for name, labels in case.labels.items():
            wanted, got = class_numbers(labels, manifest.labels.get(name)), answers[path].outputs[name]
            if _label_fault(got, wanted):
                return None
            if not len(wanted):
                continue
            scores = got.reshape(len(wanted), -1)
            certain = ~np.isnan(scores).any(axis=-1)
            right += int(np.count_nonzero(certain & (np.argmax(scores, axis=-1) == wanted)))
            rows += len(wanted)
    return Accuracy(right, rows)
