"""Converts exceptions of ONNX Runtime to Turnout's errors, with a cause and a message that clients may see."""

import re

from turnout.errors import InputsRefused, MemoryBudgetExceeded, ModelFailure, ModelTimedOut, TurnoutError

_NO_MEMORY = ("Failed to allocate memory", "is smaller than requested bytes", "out of memory", "std::bad_alloc")
"""ONNX Runtime's messages for a failed allocation, an arena at its limit, a full GPU, and tensors without an arena."""

_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : ([A-Z_]+) : ")
_NODE = re.compile(r"Non-zero status code returned while running (\S+) node\. Name:'([^']*)' Status Message: ")
_SOURCE = re.compile(r"\S+\.(?:h|hpp|cc|cpp|cu|cuh):\d+ ")
"""Location of a check in ONNX Runtime's source, which is followed by its function and then the checked condition."""
_CHECKED = " was false."
_FUNCTION = re.compile(r"^(?:[^()]*::[^()]*\([^()]*\)(?: const)?(?: \[with [^\]]*\])?|[A-Za-z_]\w*) ")
_PATH = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[/\\][^\s'\"(),:;]+")

_DEVICE = re.compile(r"\b(CUDA|CUDNN|CUBLAS|CUFFT|TensorRT)\b", re.IGNORECASE)
_SIZES = re.compile(
    r"\b(shape|dimensions?|dims?|axis|axes|rank|broadcast|size|length|channels|out of (data )?bounds|out of range)\b",
    re.IGNORECASE,
)
"""Words that kernels use when the sizes or positions given to them do not match.

The status codes are inconsistent: sizes that do not match are INVALID_ARGUMENT for `Gemm`, but FAIL for `MatMul`,
`Add`, `Concat`, `Reshape` and `Conv`; an index out of bounds is INVALID_ARGUMENT for `Gather` and FAIL for
`GatherElements` (see tests/unit/serving/test_runtime_errors.py).
"""

_NO_PROFILE = re.compile(r"Following input\(s\) has no associated shape profiles provided: (.+)", re.DOTALL)
_OUTSIDE_PROFILE = re.compile(r"nvinfer1::IExecutionContext::setInputShape\(\) for input '([^']*)'")
"""The TensorRT provider's messages for tensors whose shapes no profile states, and for a shape outside the profile."""

_MAX_SENTENCE = 400


def run_failure(error: Exception) -> TurnoutError:
    """Converts an exception of a run.

    Returns:
        InputsRefused: The inputs are at fault: ONNX Runtime reports them, or a kernel their sizes, as invalid.
        MemoryBudgetExceeded: An allocation failed or met a limit.
        ModelTimedOut: The run was stopped.
        ModelFailure: Any other failure.
    """
    text = str(error)
    if "terminate flag" in text:
        return ModelTimedOut("the run was stopped")
    if outside := _OUTSIDE_PROFILE.search(text):
        return InputsRefused.at(f"inputs.{outside[1][:64]}", "expected a shape for which TensorRT has built engines")
    failure = _failure(error, "the model raised")
    if isinstance(failure, ModelFailure) and _inputs_are_at_fault(text):
        return InputsRefused.at("inputs", f"the model cannot run on them: {sentence(text)}")
    return failure


def load_failure(error: Exception) -> TurnoutError:
    """Converts an exception raised when a session is created: MemoryBudgetExceeded or ModelFailure."""
    if unknown := _NO_PROFILE.search(str(error)):
        names = " ".join(unknown[1].split())[:_MAX_SENTENCE]
        return ModelFailure(f"the sizes of {names} are known in a run only, and TensorRT would build engines for them")
    return _failure(error, "ONNX Runtime cannot load it")


def sentence(text: str) -> str:
    """Returns ONNX Runtime's message as one line without status codes, source files, C++ names and paths.

    For example "Add node 'add1': Attempting to broadcast an axis by a dimension other than 1. 2 by 3"; "" if no text
    remains.
    """
    node = _NODE.search(text)
    place = f"{node[1]} node" + (f" '{node[2][:64]}'" if node[2] else "") if node else ""
    cleaned = _without_source(_STATUS.sub("", text[node.end() :] if node else text))
    cleaned = _PATH.sub("...", " ".join(cleaned.split())).strip()
    if len(cleaned) > _MAX_SENTENCE:
        cleaned = cleaned[: _MAX_SENTENCE - 3] + "..."
    return f"{place}: {cleaned}" if place and cleaned else place or cleaned


def _failure(error: Exception, what: str) -> MemoryBudgetExceeded | ModelFailure:
    text = str(error)
    if isinstance(error, MemoryError) or any(phrase in text for phrase in _NO_MEMORY):
        return MemoryBudgetExceeded(f"{what}: a memory limit was reached", retry_after=1.0)
    cleaned = sentence(text)
    return ModelFailure(f"{what}: {cleaned}" if cleaned else f"{what} ({type(error).__name__})")


def _inputs_are_at_fault(text: str) -> bool:
    status, cleaned = _STATUS.search(text), sentence(text)
    if status is None or _DEVICE.search(cleaned):
        return False
    return status[1] == "INVALID_ARGUMENT" or (_NODE.search(text) is not None and _SIZES.search(cleaned) is not None)


def _without_source(cleaned: str) -> str:
    """Returns the explanation of a failed check without its source location and condition."""
    while source := _SOURCE.search(cleaned):
        cleaned = cleaned[source.end() :]
        checked = cleaned.rfind(_CHECKED)
        if checked >= 0 and (explained := cleaned[checked + len(_CHECKED) :].strip()):
            return explained
        cleaned = _FUNCTION.sub("", cleaned, count=1)
    return cleaned
