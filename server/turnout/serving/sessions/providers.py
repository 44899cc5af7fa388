"""Execution providers of ONNX Runtime: which are available, which work, and which a session should use.

A provider counts as usable only if a session really runs on it. ONNX Runtime lists CUDA as available wherever the GPU
wheel is installed, and falls back to the CPU silently if the libraries or the device are missing.
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
from turnout.serving.sessions.cuda_driver import shared_library

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_NVIDIAS = re.compile(rb"lib(?:nvinfer|nvonnxparser|cudart|cublas|cudnn)\.so\.[0-9]+")
_TENSORRTS_OWN = ("libnvinfer", "libnvonnxparser")

_PRINTING = threading.Lock()
_SHORT_NAMES = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}


@dataclass(frozen=True, slots=True)
class ProviderReport:
    """The result of probing one provider.

    Attributes:
        name: ONNX Runtime's name of the provider.
        available: Whether the installed ONNX Runtime was built with it.
        usable: Whether a session really ran on it.
        detail: Why it is not usable; "" if it is.
    """

    name: str
    available: bool
    usable: bool
    detail: str = ""


def start_runtime() -> None:
    """Prepares ONNX Runtime for this process: disables telemetry, finds the CUDA libraries of the `gpu` extra, and
    silences logging.

    Call it once before the first session. Wheels since 1.29 send telemetry on Linux by default.
    """
    ort.disable_telemetry_events()
    ort.set_default_logger_severity(4)  # errors are raised; the rest would go to standard error unstructured
    missing_cuda_libraries()


def prepare_for_forks() -> None:
    """Performs the one-time initialization of ONNX and ONNX Runtime, so that forked children need not: it takes 31 ms
    of CPU time each. Starts no thread and does not touch GPUs.
    """
    import onnx

    onnx.shape_inference.infer_shapes(onnx.load_model_from_string(_identity_model()))  # registers all operators
    options = _quiet_options()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # otherwise it starts threads, and cannot fork
    ort.InferenceSession(_identity_model(), options, providers=[CPU])


@functools.cache
def missing_cuda_libraries() -> tuple[str, ...]:
    """Loads the CUDA and cuDNN libraries installed by pip, and returns the names of those that were not found."""
    if CUDA not in ort.get_available_providers() or not hasattr(ort, "preload_dlls"):
        return ()
    with _unprinted() as printed:  # preload_dlls prints the names of missing libraries
        ort.preload_dlls()
    return tuple(re.findall(r"Failed to load (\S+?):", printed.getvalue()))


def usable_providers() -> tuple[str, ...]:
    """Returns the providers that work, fastest first; the CPU is always included.

    TensorRT is left out: it is used only if a model's configuration asks for it.
    """
    return tuple(report.name for report in probe() if report.usable and report.name != TENSORRT)


@functools.cache
def probe() -> tuple[ProviderReport, ...]:
    """Tries each known provider with a session of one operator, fastest first. The result is cached."""
    available = ort.get_available_providers()
    return tuple(_probe_one(name, name in available) for name in (TENSORRT, CUDA, CPU))


def choose(wanted: Sequence[str]) -> tuple[str, ...]:
    """Returns the providers for a session, ending with the CPU. Raises ConfigError if one cannot be used here.

    `wanted` are short names (`cpu`, `cuda`, `tensorrt`) in order of preference, or `auto` for all usable providers.
    """
    if wanted == "auto":
        return usable_providers()
    chosen: list[str] = []
    for short in map(str, wanted):
        name = _SHORT_NAMES.get(short)
        if name is None:
            raise ConfigError(f"provider {short!r} is unknown; there are: {', '.join(_SHORT_NAMES)}")
        report = next(r for r in probe() if r.name == name)
        if not report.usable:
            raise ConfigError(
                f"provider {short!r} was requested but cannot be used here: {report.detail}; or remove it from"
                " [runtime] providers"
            )
        chosen.append(name)
    return tuple(dict.fromkeys([*chosen, CPU]))


@contextlib.contextmanager
def _unprinted() -> Iterator[io.StringIO]:
    """Captures what is printed to standard output.

    One thread at a time: versions are loaded concurrently, and two redirections that end out of order would leave the
    process without standard output for good.
    """
    with _PRINTING, contextlib.redirect_stdout(io.StringIO()) as printed:
        yield printed


def _probe_one(name: str, available: bool) -> ProviderReport:
    if not available:
        return ProviderReport(name, False, False, f"this build of ONNX Runtime {ort.__version__} does not include it")
    options = _quiet_options()
    try:
        with _unprinted():  # ONNX Runtime announces a fallback to the CPU with print
            session = ort.InferenceSession(_identity_model(), options, providers=[name, CPU] if name != CPU else [CPU])
            session.disable_fallback()
            session.run(None, {"x": np.zeros(1, np.float32)})
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many kinds; each means that it cannot be used
        lines = str(error).strip().splitlines() or ["it raised an error without a message"]
        return ProviderReport(name, True, False, lines[0][:300])
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
    return "the CUDA libraries are installed, but no device or driver works with them"


def _missing_of_tensorrt() -> str:
    needed = _needed_by_tensorrt()
    missing = [name for name in needed if shared_library(name) is None]
    if not needed:
        return "TensorRT's libraries (libnvinfer) or a device were not found"
    if not missing:
        return "TensorRT's libraries are installed, but no NVIDIA device or driver works with them"
    sentences = [f"not found: {', '.join(missing)}"]
    if own := [name for name in missing if name.startswith(_TENSORRTS_OWN)]:
        toolkit = next((f"-cu{_major(name)}" for name in needed if name.startswith("libcudart")), "")
        release = _major(own[0])
        sentences.append(
            f"NVIDIA's TensorRT {release} has them, such as pip install 'tensorrt{toolkit}=={release}.*',"
            " with its folder tensorrt_libs in LD_LIBRARY_PATH"
        )
    if len(own) < len(missing):
        sentences.append("CUDA and cuDNN come with pip install 'turnout[gpu]'")
    return "; ".join(sentences)


@functools.cache
def _needed_by_tensorrt() -> tuple[str, ...]:
    """Returns the NVIDIA libraries that ONNX Runtime's TensorRT provider is linked with."""
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    try:
        found = _NVIDIAS.findall(library.read_bytes())
    except OSError:
        return ()
    return tuple(sorted({name.decode() for name in found}))


@functools.cache
def tensorrt_version() -> str:
    """Returns the installed version of TensorRT, such as `10.8.0`; "" if there is none or it cannot be determined."""
    for name in _needed_by_tensorrt():
        if name.startswith("libnvinfer.so"):
            try:
                number = int(ctypes.CDLL(name).getInferLibVersion())
            except (OSError, AttributeError):
                return ""
            # NvInferVersion.h: since 10.0 major * 10000 + minor * 100 + patch, before that major * 1000 + minor * 100.
            thousands = 10_000 if number >= 100_000 else 1_000
            return f"{number // thousands}.{number % thousands // 100}.{number % 100}"
    return ""


def _major(name: str) -> str:
    return name.rpartition(".")[2]


@functools.cache
def _identity_model() -> bytes:
    import onnx  # takes 0.07 s, which a replacement child process cannot spare

    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "probe", [x], [y])
    opset = onnx.helper.make_opsetid("", 13)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
