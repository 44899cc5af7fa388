"""The gate `integrity`: checks that a candidate is complete, valid ONNX that the installed runtime supports."""

from dataclasses import dataclass

import onnx

from turnout.errors import TurnoutError
from turnout.registry.compatibility.sandbox import Sandbox
from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict
from turnout.registry.manifest.manifest import MODEL_FILE
from turnout.registry.onnx.checker import check_file
from turnout.registry.onnx.runtime import refusal, runtime_name
from turnout.registry.storage.files import walk


@dataclass(frozen=True, slots=True)
class IntegrityGate:
    """Passes a candidate whose files are complete and inside its directory, and that ONNX and its runtime accept.

    Attributes:
        sandbox: Checks the ONNX file in a separate process; None to do so in this one.
    """

    name = "integrity"
    sandbox: Sandbox | None = None

    def run(self, candidate: Candidate) -> GateVerdict:
        """Runs ONNX's checker on the staged model and its external data, and checks that ONNX Runtime supports it."""
        if fault := _files_fault(candidate):
            return GateVerdict(GateOutcome.FAILED, fault)
        try:
            model = candidate.directory / MODEL_FILE
            check = check_file(model) if self.sandbox is None else self.sandbox.check(candidate)
        except TurnoutError as error:
            return GateVerdict(GateOutcome.FAILED, f"ONNX's checker did not finish: {error.message}")
        if fault := check.fault or refusal(candidate.manifest.ir_version, candidate.manifest.opset):
            return GateVerdict(GateOutcome.FAILED, fault)
        external = candidate.facts.external
        weights = f", {len(external)} files of weights inside its directory" if external else ""
        return GateVerdict(
            GateOutcome.PASSED,
            f"well-formed by onnx {onnx.__version__}{weights}; {runtime_name()} takes its operator sets and IR version"
            f" {candidate.manifest.ir_version}; {check.shapes}",
        )


def _files_fault(candidate: Candidate) -> str | None:
    expected = {entry.path: entry.size for entry in candidate.manifest.files}
    found = dict(walk(candidate.directory))
    if odd := sorted(expected.keys() ^ found.keys()) or sorted(path for path, plain in found.items() if not plain):
        return f"the staged files are not those of the manifest: {', '.join(odd[:5])}"
    for file in candidate.facts.external:
        if expected[file.path] < file.min_size:
            return f"{file.path} has {expected[file.path]} bytes, and the model's tensors reach to byte {file.min_size}"
    return None
