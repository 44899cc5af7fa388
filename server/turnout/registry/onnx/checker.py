"""Checks an ONNX file with ONNX's own checker and shape inference.

Both hold Python's lock, and shape inference follows every call of a function: thirty functions, each of which calls the
next one twice, are a file of 4 KB, and keep it busy for an hour. So files from elsewhere are checked in another process
(`turnout.registry.compatibility.sandbox.Sandbox.check`).
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from onnx.checker import ValidationError, check_model

from turnout.registry.manifest.json_form import JsonForm

FULL_CHECK_LIMIT = 512 << 20
"""Size of an ONNX file in bytes up to which shapes are inferred: that takes several times its size in memory."""

_EVIDENCE_LENGTH = 400


@dataclass(frozen=True, slots=True)
class ModelCheck(JsonForm):
    """The result of a check.

    Attributes:
        fault: Why the file is not well-formed ONNX, as a sentence without a path; "" if it is.
        shapes: Result of shape inference, as a clause. It does not decide anything: exporters write shapes that
            contradict inference, and operator sets of other domains have no inference at all, but ONNX Runtime loads
            and runs such models.
    """

    fault: str = ""
    shapes: str = ""


def check_file(model: Path, inferring: AbstractContextManager[None] | None = None) -> ModelCheck:
    """Checks an ONNX file and the places of its external data.

    Args:
        model: The ONNX file. External data is looked up beside it.
        inferring: Entered while shapes are inferred. May bound the time of that.
    """
    try:
        check_model(model)
    except ValidationError as error:
        return ModelCheck(f"ONNX's checker refuses the model: {_in_a_line(error, model.parent)}")
    if model.stat().st_size > FULL_CHECK_LIMIT:
        return ModelCheck(shapes="its shapes were not inferred, for its size")
    with inferring or nullcontext():
        return ModelCheck(shapes=_shapes(model))


def _shapes(model: Path) -> str:
    try:
        check_model(model, full_check=True)
    except MemoryError:
        return "its shapes were not inferred, which takes too much memory"
    except Exception as error:  # noqa: BLE001 - inference raises its own errors, ValueError and RuntimeError
        return f"shape inference complains, which refuses nothing: {_in_a_line(error, model.parent)}"
    return "its shapes are consistent"


def _in_a_line(error: Exception, directory: Path) -> str:
    text = " ".join(str(error).replace(f"{directory}/", "").replace(str(directory), "").split())
    return text if len(text) <= _EVIDENCE_LENGTH else f"{text[:_EVIDENCE_LENGTH]} ..."
