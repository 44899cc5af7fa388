"""What ONNX Runtime raised, as an error of ours: whose fault it is, and a sentence that a client may read."""

import re

from turnout.errors import InputsRefused, MemoryBudgetExceeded, ModelFailure, ModelTimedOut, TurnoutError

_NO_MEMORY = ("Failed to allocate memory", "is smaller than requested bytes", "out of memory", "std::bad_alloc")
"""What ONNX Runtime says when an allocation failed, when an arena met its limit, when a GPU is full, and of tensors
without an arena."""

_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : ([A-Z_]+) : ")
_NODE = re.compile(r"Non-zero status code returned while running (\S+) node\. Name:'([^']*)' Status Message: ")
_SOURCE = re.compile(r"\S+\.(?:h|hpp|cc|cpp|cu|cuh):\d+ ")
"""Where in ONNX Runtime's own source a check stands; what follows is its function, and then what it checked."""
_CHECKED = " was false."
_FUNCTION = re.compile(r"^(?:[^()]*::[^()]*\([^()]*\)(?: const)?(?: \[with [^\]]*\])?|[A-Za-z_]\w*) ")
_PATH = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[/\\][^\s'\"(),:;]+")

_DEVICE = re.compile(r"\b(CUDA|CUDNN|CUBLAS|CUFFT|TensorRT)\b", re.IGNORECASE)
_SIZES = re.compile(
    r"\b(shape|dimensions?|dims?|axis|axes|rank|broadcast|size|length|channels|out of (data )?bounds|out of range)\b",
    re.IGNORECASE,
)
"""What a kernel speaks of when the sizes or places that it was given do not go together.

Kernels have no system in it: sizes that do not match are INVALID_ARGUMENT for `Gemm`, and FAIL for `MatMul`, `Add`,
`Concat`, `Reshape` and `Conv`; an index out of bounds is INVALID_ARGUMENT for `Gather` and FAIL for `GatherElements`
(tests/unit/serving/test_runtime_errors.py has them).
"""

_MAX_SENTENCE = 400


def run_failure(error: Exception) -> TurnoutError:
    """Returns what a run raised as an error of ours.

    Returns:
        InputsRefused: The inputs are at fault: ONNX Runtime calls them invalid, or a kernel their sizes.
        MemoryBudgetExceeded: An allocation failed or met a limit.
        ModelTimedOut: The run was stopped.
        ModelFailure: Anything else.
    """
    text = str(error)
    if "terminate flag" in text:
        return ModelTimedOut("the run was stopped")
    failure = _failure(error, "the model raised")
    if isinstance(failure, ModelFailure) and _inputs_are_at_fault(text):
        return InputsRefused.at("inputs", f"the model cannot run on them: {sentence(text)}")
    return failure


def load_failure(error: Exception) -> TurnoutError:
    """Returns what making a session raised: MemoryBudgetExceeded if memory ran out, else ModelFailure."""
    return _failure(error, "ONNX Runtime cannot load it")


def sentence(text: str) -> str:
    """Returns what ONNX Runtime says, in one line without its codes, source files, C++ names and any path.

    "Add node 'add1': Attempting to broadcast an axis by a dimension other than 1. 2 by 3"; "" if nothing is left of it.
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
        return MemoryBudgetExceeded(f"{what}: a memory limit was met", retry_after=1.0)
    cleaned = sentence(text)
    return ModelFailure(f"{what}: {cleaned}" if cleaned else f"{what} ({type(error).__name__})")


def _inputs_are_at_fault(text: str) -> bool:
    status, cleaned = _STATUS.search(text), sentence(text)
    if status is None or _DEVICE.search(cleaned):
        return False
    return status[1] == "INVALID_ARGUMENT" or (_NODE.search(text) is not None and _SIZES.search(cleaned) is not None)


def _without_source(cleaned: str) -> str:
    """Returns what a check says for people, without where it stands in ONNX Runtime and the condition it looked at."""
    while source := _SOURCE.search(cleaned):
        cleaned = cleaned[source.end() :]
        checked = cleaned.rfind(_CHECKED)
        if checked >= 0 and (explained := cleaned[checked + len(_CHECKED) :].strip()):
            return explained
        cleaned = _FUNCTION.sub("", cleaned, count=1)
    return cleaned
