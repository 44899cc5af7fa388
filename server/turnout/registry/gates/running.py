"""The gates `load`, `determinism` and `batchability`: check how a version behaves when it runs alone.

They share one examination of the version, which the sandbox performs once.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np

from turnout.errors import TurnoutError
from turnout.registry.compatibility.sandbox import Sandbox, SandboxReport
from turnout.registry.gates.comparison import golden_files, golden_paths
from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict, failure_verdict
from turnout.registry.gates.plan import BatchabilityOptions, DeterminismOptions, GateOptions, LoadOptions, OnFailure
from turnout.registry.manifest.signature import Signature
from turnout.text.quantities import seconds_text

_MIB = 1 << 20

P = TypeVar("P", bound=GateOptions)


@dataclass(frozen=True, slots=True)
class SandboxGate(ABC, Generic[P]):
    """A gate that examines the results of running the candidate.

    Attributes:
        sandbox: Runs the candidate in a separate process.
        unloadable: Outcome if the candidate cannot be loaded. The gate `load` refuses it; others leave that to `load`.
    """

    sandbox: Sandbox
    plan: P

    unloadable: ClassVar[GateOutcome] = GateOutcome.SKIPPED

    def run(self, candidate: Candidate) -> GateVerdict:
        """Runs the candidate, unless another gate has done so, and judges the results."""
        try:
            seen = self.sandbox.examine(candidate, golden_files(candidate, candidate.parent))
        except TurnoutError as error:
            return GateVerdict(self.unloadable, f"it cannot be loaded: {error.message}")
        return self.judge(candidate, seen)

    def failed(self, evidence: str, numbers: Mapping[str, float] | None = None) -> GateVerdict:
        """Returns the verdict on a failed check."""
        return failure_verdict(self.plan.on_failure, evidence, numbers)

    @abstractmethod
    def judge(self, candidate: Candidate, seen: SandboxReport) -> GateVerdict:
        """Returns the verdict on the results of running the candidate."""


class LoadGate(SandboxGate[LoadOptions]):
    """Passes a candidate that ONNX Runtime loads on the provider that will serve it, and that can be warmed up."""

    name = "load"
    unloadable = GateOutcome.FAILED

    def judge(self, candidate: Candidate, seen: SandboxReport) -> GateVerdict:
        """Judges how long the candidate took to load, and whether it runs."""
        numbers = {
            "load_seconds": seen.load_seconds, "run_seconds": seen.run_seconds, "peak_mib": seen.peak_bytes / _MIB
        }  # fmt: skip
        where = f"loaded in {seconds_text(seen.load_seconds)} on {seen.provider}"
        bound = self.plan.seconds_max
        if bound and seen.load_seconds > bound:
            return self.failed(f"{where}, at most {bound:g} s are allowed", numbers)
        own = golden_paths(candidate.manifest)
        if faults := [answer for answer in seen.answers if answer.example in own and answer.fault]:
            fault = f"{faults[0].example} cannot be run: {faults[0].fault}"
            return self.failed(f"{where}, but {fault}", numbers)
        if seen.warning:
            return GateVerdict(GateOutcome.WARNED, f"{where}; not warmed: {seen.warning}", numbers)
        if _only_nan(seen):
            answers = f"all numbers in its answers to {len(seen.answers)} examples are NaN"
            return GateVerdict(GateOutcome.WARNED, f"{where}; {answers}", numbers)
        if wrong := _misstated_output(candidate.manifest.signature, seen):
            return GateVerdict(GateOutcome.WARNED, f"{where}; {wrong}", numbers)
        return GateVerdict(GateOutcome.PASSED, f"{where}; a run takes {seconds_text(seen.run_seconds)}", numbers)


def _misstated_output(signature: Signature, seen: SandboxReport) -> str:
    """Returns which output has another shape than the file states, as a sentence; "" if none has.

    ONNX Runtime only warns about it, but clients rely on what the file states.
    """
    for answer in seen.answers:
        for spec in signature.outputs:
            array = answer.outputs.get(spec.name)
            if array is not None and not spec.admits(array.shape):
                return f"output {spec.name} has the shape {list(array.shape)}, but the file states {spec}"
    return ""


def _only_nan(seen: SandboxReport) -> bool:
    outputs = [array for answer in seen.answers for array in answer.outputs.values() if array.size]
    return bool(outputs) and all(array.dtype.kind == "f" and np.isnan(array).all() for array in outputs)


class DeterminismGate(SandboxGate[DeterminismOptions]):
    """Passes a candidate that gives the same answer twice."""

    name = "determinism"

    def judge(self, candidate: Candidate, seen: SandboxReport) -> GateVerdict:
        """Compares two answers to the same input."""
        if seen.repeatable is None:
            return GateVerdict(GateOutcome.SKIPPED, "no input was found that it runs on")
        if seen.repeatable:
            return GateVerdict(GateOutcome.PASSED, "one input answered twice, the same bit by bit")
        numbers = {"largest_difference": seen.wander}
        message = f"one input answered twice differs by up to {seen.wander:.3g}"
        if not seen.strays:
            return GateVerdict(GateOutcome.PASSED, f"{message}, within tolerance", numbers)
        return self.failed(f"{message}, beyond tolerance", numbers)


class BatchabilityGate(SandboxGate[BatchabilityOptions]):
    """Passes a candidate whose requests can be batched without changing each other's answers."""

    name = "batchability"

    def judge(self, candidate: Candidate, seen: SandboxReport) -> GateVerdict:
        """Compares the answers to two rows alone with the answers to the same rows in one batch."""
        if seen.batched:
            return GateVerdict(GateOutcome.PASSED, seen.batching)
        declared = candidate.manifest.batching
        if seen.mixes:
            claimed = declared is not None and declared.enabled and declared.axes is not None
            action = OnFailure.REFUSE if claimed else self.plan.on_failure
            message = "declared as batchable, and " if claimed else "rows of a batch leak into each other: "
            return failure_verdict(action, f"{message}{seen.batching}")
        if self.plan.required:
            return failure_verdict(
                OnFailure.REFUSE, f"the plan requires a version that can be batched: {seen.batching}"
            )
        of_parent = None if candidate.parent is None else candidate.parent.manifest.batching
        if declared is None and of_parent is not None and of_parent.enabled:
            return GateVerdict(GateOutcome.WARNED, f"its parent declares batching: {seen.batching}")
        return GateVerdict(GateOutcome.SKIPPED, seen.batching)
