"""Execution providers of ONNX Runtime: which are there, which really work, which a session should ask for.

A provider counts as there only if a session really runs on it: ONNX Runtime lists CUDA as available wherever the GPU
wheel is installed, and falls back to the CPU silently where the libraries or the device are missing.
"""

import contextlib
import ctypes
import functools
import io
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from turnout.errors import ConfigError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_NVIDIAS = re.compile(rb"lib(?:nvinfer|nvonnxparser|cudart|cublas|cudnn)\.so\.[0-9]+")
_TENSORRTS_OWN = ("libnvinfer", "libnvonnxparser")

_PRINTING = threading.Lock()
_SHORT_NAMES = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}


@dataclass(frozen=True, slots=True)
class ProviderReport:
    """What was found out about one provider.

    Attributes:
        name: ONNX Runtime's name of it.
        available: The installed ONNX Runtime was built with it.
        usable: A session really ran on it.
        detail: Why it is not usable; "" if it is.
    """

    name: str
    available: bool
    usable: bool
    detail: str = ""


def start_runtime() -> None:
    """Prepares ONNX Runtime for this process: no telemetry, CUDA libraries of the `gpu` extra found, quiet logging.

    Call it once before the first session. Wheels since 1.29 send telemetry on Linux unless told not to.
    """
    ort.disable_telemetry_events()
    ort.set_default_logger_severity(4)  # what matters is raised; the rest would go to standard error unstructured
    missing_cuda_libraries()


def prepare_for_forks() -> None:
    """Does what ONNX and ONNX Runtime do once in a process, so that children forked from this one need not: 31 ms of
    CPU for each. Starts no thread, and touches no GPU.
    """
    import onnx

    onnx.shape_inference.infer_shapes(onnx.load_model_from_string(_identity_model()))  # registers all operators
    options = _quiet_options()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # or it starts threads, which no fork survives
    ort.InferenceSession(_identity_model(), options, providers=[CPU])


@functools.cache
def missing_cuda_libraries() -> tuple[str, ...]:
    """Loads the CUDA and cuDNN libraries that pip installed, and returns the names of those that were not found."""
    if CUDA not in ort.get_available_providers() or not hasattr(ort, "preload_dlls"):
        return ()
    with _unprinted() as printed:  # preload_dlls prints what it misses
        ort.preload_dlls()
    return tuple(re.findall(r"Failed to load (\S+?):", printed.getvalue()))


def usable_providers() -> tuple[str, ...]:
    """Returns the providers on which a session really runs, the fastest first; the CPU is always among them.

    TensorRT is left out: it is used only if a model's configuration asks for it.
    """
    return tuple(report.name for report in probe() if report.usable and report.name != TENSORRT)


@functools.cache
def probe() -> tuple[ProviderReport, ...]:
    """Tries each provider that Turnout knows with a session of one operator, the fastest first; once in a process."""
    available = ort.get_available_providers()
    return tuple(_probe_one(name, name in available) for name in (TENSORRT, CUDA, CPU))


def choose(wanted: Sequence[str]) -> tuple[str, ...]:
    """Returns the providers that a session is to be made with, in order, ending in the CPU.

    Args:
        wanted: Short names (`cpu`, `cuda`, `tensorrt`) in order of preference; empty means whatever is usable.

    Raises:
        ConfigError: A provider was asked for by name and cannot be used here.
    """
    if not wanted:
        return usable_providers()
    chosen: list[str] = []
    for short in wanted:
        name = _SHORT_NAMES.get(short)
        if name is None:
            raise ConfigError(f"provider {short!r} is unknown; there are: {', '.join(_SHORT_NAMES)}")
        report = next(r for r in probe() if r.name == name)
        if not report.usable:
            raise ConfigError(
                f"provider {short!r} was asked for and cannot be used here: {report.detail}; or take it out of"
                " [runtime] providers"
            )
        chosen.append(name)
    return tuple(dict.fromkeys([*chosen, CPU]))


@contextlib.contextmanager
def _unprinted() -> Iterator[io.StringIO]:
    """Keeps what is printed out of standard output.

    One thread at a time: versions are loaded side by side, and two redirections that end out of order would leave the
    process without its standard output for good.
    """
    with _PRINTING, contextlib.redirect_stdout(io.StringIO()) as printed:
        yield printed


def _probe_one(name: str, available: bool) -> ProviderReport:
    if not available:
        return ProviderReport(name, False, False, f"this build of ONNX Runtime {ort.__version__} does not hold it")
    options = _quiet_options()
    try:
        with _unprinted():  # falling back to the CPU is announced by print
            session = ort.InferenceSession(_identity_model(), options, providers=[name, CPU] if name != CPU else [CPU])
            session.disable_fallback()
            session.run(None, {"x": np.zeros(1, np.float32)})
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many kinds; each means "cannot be used", and why
        return ProviderReport(name, True, False, _first_line(str(error)))
    if session.get_providers()[0] != name:
        return ProviderReport(name, True, False, _missing_reason(name))
    return ProviderReport(name, True, True)


def _quiet_options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return options


def _missing_reason(name: str) -> str:
    if name == TENSORRT:
        return _missing_of_tensorrt()
    if missing := missing_cuda_libraries():
        return f"not found: {', '.join(missing)}; they come with pip install 'turnout[gpu]'"
    return "the CUDA libraries are there, but no device or driver that works with them"


def _missing_of_tensorrt() -> str:
    """Says what TensorRT lacks here, and how to get it."""
    needed = _needed_by_tensorrt()
    missing = [name for name in needed if not _loads(name)]
    if not needed:
        return "TensorRT's libraries (libnvinfer) or a device were not found"
    if not missing:
        return "TensorRT's libraries are there, but no NVIDIA device or driver that works with them"
    sentences = [f"not found: {', '.join(missing)}"]
    if own := [name for name in missing if name.startswith(_TENSORRTS_OWN)]:
        toolkit = next((f"-cu{_major(name)}" for name in needed if name.startswith("libcudart")), "")
        release = _major(own[0])
        sentences.append(
            f"NVIDIA's TensorRT {release} has them, such as pip install 'tensorrt{toolkit}=={release}.*',"
            " with its folder tensorrt_libs in LD_LIBRARY_PATH"
        )
    if len(own) < len(missing):
        sentences.append("those of CUDA and cuDNN come with pip install 'turnout[gpu]'")
    return "; ".join(sentences)


@functools.cache
def _needed_by_tensorrt() -> tuple[str, ...]:
    """Returns the libraries that ONNX Runtime's TensorRT provider is linked with, of NVIDIA's."""
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    try:
        found = _NVIDIAS.findall(library.read_bytes())
    except OSError:
        return ()
    return tuple(sorted({name.decode() for name in found}))


@functools.cache
def tensorrt_version() -> str:
    """Returns the version of TensorRT that is installed, such as `10.8.0`; "" if there is none, or it does not tell."""
    for name in _needed_by_tensorrt():
        if name.startswith("libnvinfer.so"):
            try:
                number = int(ctypes.CDLL(name).getInferLibVersion())
            except (OSError, AttributeError):
                return ""
            # NvInferVersion.h: since 10.0 major * 10000 + minor * 100 + patch, and before major * 1000 + minor * 100.
            thousands = 10_000 if number >= 100_000 else 1_000
            return f"{number // thousands}.{number % thousands // 100}.{number % 100}"
    return ""


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _major(name: str) -> str:
    return name.rpartition(".")[2]


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "it raised without saying why"


@functools.cache
def _identity_model() -> bytes:
    import onnx  # 0.07 s, which a child process that replaces one has not

    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "probe", [x], [y])
    opset = onnx.helper.make_opsetid("", 13)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
