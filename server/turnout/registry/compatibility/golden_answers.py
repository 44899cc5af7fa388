"""Compares a version's answers to golden cases with the expected answers. Without side effects.

Used wherever the correctness of a version matters: by the gate `golden` before it is published, and by a load that
would run it with less precision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from turnout.registry.compatibility.agreement import differs, largest_difference, tolerance_of
from turnout.registry.compatibility.sandbox import ExampleResult
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.storage.golden import GoldenCase, class_numbers


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
    faults = []
    for spec in manifest.signature.outputs:
        expected = case.outputs.get(spec.name)
        if expected is None:
            continue
        got, tolerance = answer.outputs[spec.name], tolerance_of(manifest, spec)
        if differs(got, expected, tolerance):
            apart = largest_difference(got, expected)
            bound = "must be equal" if tolerance is None else f"allowed {tolerance.atol:g} + {tolerance.rtol:g} * value"
            faults.append(
                f"case {case.name}: output {spec.name} is off by {apart:.3g} ({bound})"
                if got.shape == expected.shape
                else f"case {case.name}: output {spec.name} has shape {got.shape}, expected {expected.shape}"
            )
    for name, labels in case.labels.items():
        got = answer.outputs[name]
        if got.ndim < 2 or got.shape[0] != labels.shape[0]:
            faults.append(f"case {case.name}: output {name} has shape {got.shape} for {labels.shape[0]} labels")
    return faults


def accuracy_of(manifest: Manifest, cases: Mapping[str, GoldenCase], answers: Mapping[str, ExampleResult]) -> Accuracy:
    """Returns how many labelled rows of golden cases were answered correctly. Both mappings are keyed by example."""
    right = rows = 0
    for path, case in cases.items():
        for name, labels in case.labels.items():
            wanted = class_numbers(labels, manifest.labels.get(name))
            chosen = np.argmax(answers[path].outputs[name].reshape(len(wanted), -1), axis=-1)
            right += int(np.count_nonzero(chosen == wanted))
            rows += len(wanted)
    return Accuracy(right, rows)
