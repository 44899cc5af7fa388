"""Decides by its golden cases whether a version runs in FP16. Pure.

A session in FP16 is used only if it answers every golden case as the case expects, within the version's tolerances; the
comparison is that of the gate `golden`. Outputs that a case does not specify are compared with the answer of the
session at full precision.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from turnout.registry.compatibility.golden_answers import accuracy_of, answer_faults
from turnout.registry.compatibility.sandbox import ExampleResult
from turnout.registry.gates.plan import GoldenOptions
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.storage.golden import GOLDEN_DIRECTORY, GoldenCase


@dataclass(frozen=True, slots=True)
class Precision:
    """The precision at which a version runs, and why; "" if FP16 was not requested."""

    fp16: bool = False
    reason: str = ""


FULL = Precision()
"""Full precision, where FP16 was not requested."""


def full(why: str) -> Precision:
    """Returns full precision for a version for which FP16 was requested, with the reason."""
    return Precision(False, f"full precision: {why}")


@dataclass(frozen=True, slots=True)
class Compared:
    """A golden case (its inputs are not used), and the answers to it at full precision and in FP16."""

    case: GoldenCase
    full: ExampleResult
    reduced: ExampleResult


def beforehand(setting: Literal["off", "golden"], manifest: Manifest) -> Precision | None:
    """Returns the precision of a version by the setting `runtime.tensorrt_fp16`; None if a trial is necessary."""
    if setting == "off":
        return FULL
    if not any(entry.path.startswith(f"{GOLDEN_DIRECTORY}/") for entry in manifest.files):
        return full("it has no golden cases, which would show whether FP16 is exact enough")
    return None


def decide(manifest: Manifest, compared: Iterable[Compared]) -> Precision:
    """Returns whether a version may run in FP16. Looks no further than the first golden case that forbids it."""
    labelled: dict[str, GoldenCase] = {}
    answers: tuple[dict[str, ExampleResult], dict[str, ExampleResult]] = ({}, {})
    cases = 0
    for one in compared:
        cases += 1
        name = one.case.name
        if one.full.fault:
            return full(f"golden case {name} cannot be run there: {one.full.fault}")
        expected = replace(one.case, outputs={**one.full.outputs, **one.case.outputs})
        if faults := answer_faults(manifest, expected, one.reduced):
            return full(f"FP16 was tried, and {faults[0]}")
        if one.case.labels:
            labelled[name] = GoldenCase(name, {}, {}, one.case.labels)
            for side, answer in zip(answers, (one.full, one.reduced), strict=True):
                labels = {name: array for name, array in answer.outputs.items() if name in one.case.labels}
                side[name] = replace(answer, outputs=labels)
    if not cases:
        return full("no golden case could be read, which would show whether FP16 is exact enough")
    theirs, ours = (accuracy_of(manifest, labelled, side) for side in answers)
    if theirs is None or ours is None:
        return full("FP16 was tried, and the golden cases have labels that its answers have no scores for")
    if theirs.ratio - ours.ratio > GoldenOptions().top1_worse_by_max + 1e-9:
        return full(
            f"FP16 was tried, and {ours.ratio:.1%} of the labelled rows are right instead of {theirs.ratio:.1%}"
        )
    return Precision(True, f"FP16: {cases} golden case{'s' * (cases != 1)} answered as expected, within tolerance")
