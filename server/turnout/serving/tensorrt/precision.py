"""Whether a version runs in FP16, as its golden cases show. Pure but for NumPy.

A session in FP16 is used only if it answers every golden case as the case expects, within the version's tolerances: the
comparison of the gate `golden`. What a case does not say is expected to be what the session at full precision answers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from numpy.typing import NDArray

from turnout.registry.compatibility.golden_answers import accuracy_of, answer_faults
from turnout.registry.compatibility.sandbox import ExampleResult
from turnout.registry.gates.plan import GoldenOptions
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.storage.golden import GOLDEN_DIRECTORY, GoldenCase


@dataclass(frozen=True, slots=True)
class Precision:
    """How exactly a version runs.

    Attributes:
        fp16: It runs in FP16.
        reason: Why it does or does not, in words; "" where nobody asked for it.
    """

    fp16: bool = False
    reason: str = ""


FULL = Precision()
"""Where nobody asked for FP16."""


def full(why: str) -> Precision:
    """Returns that a version runs at full precision although FP16 was asked for, and why."""
    return Precision(False, f"full precision: {why}")


@dataclass(frozen=True, slots=True)
class Compared:
    """One golden case, and what two sessions of a version answered to it.

    Attributes:
        case: With what it expects; its inputs are not looked at.
        full: The answer at full precision.
        reduced: The answer in FP16.
    """

    case: GoldenCase
    full: ExampleResult
    reduced: ExampleResult


def beforehand(setting: Literal["off", "golden"], manifest: Manifest, *, isolated: bool) -> Precision | None:
    """Returns how exactly a version runs, as far as that is known before it is tried; None if it has to be tried.

    Args:
        setting: `runtime.tensorrt_fp16`.
        manifest: Of the version.
        isolated: It runs in child processes.
    """
    if setting == "off":
        return FULL
    if not any(entry.path.startswith(f"{GOLDEN_DIRECTORY}/") for entry in manifest.files):
        return full("it has no golden cases, which would show whether FP16 is exact enough")
    return full("it runs in child processes") if isolated else None


def decide(manifest: Manifest, compared: Iterable[Compared]) -> Precision:
    """Returns whether a version may run in FP16.

    Args:
        manifest: Of the version; declares tolerances and labels.
        compared: One for each of its golden cases; no more are taken once one disagrees.
    """
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
                side[name] = replace(answer, outputs=_only(answer.outputs, one.case.labels))
    if not cases:
        return full("no golden case could be read, which would show whether FP16 is exact enough")
    theirs, ours = (accuracy_of(manifest, labelled, side) for side in answers)
    if theirs.ratio - ours.ratio > GoldenOptions().top1_worse_by_max + 1e-9:
        return full(
            f"FP16 was tried, and {ours.ratio:.1%} of the labelled rows are right instead of {theirs.ratio:.1%}"
        )
    return Precision(True, f"FP16: {cases} golden case{'s' * (cases != 1)} answered as expected, within tolerance")


def _only(outputs: Mapping[str, NDArray[Any]], labels: Mapping[str, object]) -> Mapping[str, NDArray[Any]]:
    return {name: array for name, array in outputs.items() if name in labels}
