"""The gate `integrity`: checks that a candidate is complete, valid ONNX that the installed runtime supports."""

from pathlib import Path

import onnx
from onnx.checker import ValidationError, check_model
from onnx.shape_inference import InferenceError

from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict
from turnout.registry.manifest.manifest import MODEL_FILE
from turnout.registry.onnx.runtime import refusal, runtime_name
from turnout.registry.storage.files import walk

FULL_CHECK_LIMIT = 512 << 20
"""Size of an ONNX file in bytes up to which shapes are inferred: that takes several times its size in memory."""

_EVIDENCE_LENGTH = 400


class IntegrityGate:
    """Passes a candidate whose files are complete and inside its directory, and that ONNX and its runtime accept."""

    name = "integrity"

    def run(self, candidate: Candidate) -> GateVerdict:
        """Runs ONNX's checker on the staged model and its external data, and checks that ONNX Runtime supports it."""
        fault = (
            _files_fault(candidate)
            or _checker_fault(candidate.directory)
            or refusal(candidate.manifest.ir_version, candidate.manifest.opset)
        )
        if fault:
            return GateVerdict(GateOutcome.FAILED, fault)
        external = candidate.facts.external
        weights = f", {len(external)} files of weights inside its directory" if external else ""
        return GateVerdict(
            GateOutcome.PASSED,
            f"well-formed by onnx {onnx.__version__}{weights}; {runtime_name()} takes its operator sets and IR version"
            f" {candidate.manifest.ir_version}; {_shape_note(candidate.directory)}",
        )


def _files_fault(candidate: Candidate) -> str | None:
    expected = {entry.path: entry.size for entry in candidate.manifest.files}
    found = {entry.path: entry.plain for entry in walk(candidate.directory)}
    if odd := sorted(expected.keys() ^ found.keys()) or sorted(path for path, plain in found.items() if not plain):
        return f"the staged files are not those of the manifest: {', '.join(odd[:5])}"
    for file in candidate.facts.external:
        if expected[file.path] < file.min_size:
            return f"{file.path} has {expected[file.path]} bytes, and the model's tensors reach to byte {file.min_size}"
    return None


def _checker_fault(directory: Path) -> str | None:
    try:
        # By path, so that external data is looked up beside the model, not in the working directory.
        check_model(directory / MODEL_FILE)
    except ValidationError as error:
        return f"ONNX's checker refuses the model: {_in_a_line(error, directory)}"
    return None


def _shape_note(directory: Path) -> str:
    """Returns the result of shape inference for a model.

    It does not decide the verdict: exporters write shapes that contradict inference, and opsets of other domains
    have no inference at all, but ONNX Runtime loads and runs such models. The gate `load` checks whether it does.
    """
    if (directory / MODEL_FILE).stat().st_size > FULL_CHECK_LIMIT:
        return "its shapes were not inferred, for its size"
    try:
        check_model(directory / MODEL_FILE, full_check=True)
    except (InferenceError, ValidationError) as error:
        return f"shape inference complains, which refuses nothing: {_in_a_line(error, directory)}"
    return "its shapes are consistent"


def _in_a_line(error: Exception, directory: Path) -> str:
    text = " ".join(str(error).replace(f"{directory}/", "").replace(str(directory), "").split())
    return text if len(text) <= _EVIDENCE_LENGTH else f"{text[:_EVIDENCE_LENGTH]} ..."
