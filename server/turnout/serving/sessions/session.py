"""One ONNX Runtime session of one version on one device.

`Session.run` is thread-safe and shared by a version's runners on the CPU. On CUDA each runner takes a `BoundRunner` of
its own (`turnout.serving.sessions.io_binding`), since an IO binding serves one run at a time.
"""

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnxruntime as ort

from turnout.registry.manifest.signature import DataType, Signature
from turnout.serving.sessions.providers import CPU, CUDA, TENSORRT
from turnout.serving.sessions.runtime_errors import load_failure, run_failure
from turnout.serving.sessions.tensor import Array

if TYPE_CHECKING:  # a child process that replaces one should be there soon, and reading settings takes 0.16 s to import
    from turnout.config import Runtime

Run = Callable[[Mapping[str, Array], Sequence[str]], list[Array]]
"""Runs a model: inputs by name and names of the outputs wanted in; their values, in that order, out."""


class EndableRun(ABC):
    """A `Run` that can be ended from outside, since it goes on in a process of its own."""

    @abstractmethod
    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the model once."""

    @abstractmethod
    def run_unless(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], given_up: Callable[[], bool]
    ) -> list[Array]:
        """Runs the model once, and ends the run some time after `given_up` tells that nobody waits for it any more."""


MakeRunner = Callable[[], AbstractContextManager[Run]]
"""Makes what one runner thread runs with, in that thread; leaving the context frees what belongs to the thread."""

_BFLOAT16 = 16
"""ONNX's number of the element type (TensorProto.BFLOAT16)."""

_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_STRATEGIES = {"next_power_of_two": "kNextPowerOfTwo", "same_as_requested": "kSameAsRequested"}


class Stop:
    """Ends one run: ONNX Runtime looks between two nodes of the graph whether it shall go on."""

    def __init__(self) -> None:
        self.options = ort.RunOptions()

    def __call__(self) -> None:
        """Has the run raise ModelTimedOut before its next node."""
        self.options.terminate = True


class Session:
    """A model in memory on one device.

    Attributes:
        providers: Execution providers the session really runs on, in order.
        device: `cpu` or `cuda:N`.
    """

    def __init__(
        self,
        model: Path,
        signature: Signature,
        providers: Sequence[str],
        device_id: int,
        runtime: "Runtime",
        *,
        prepack: bool = True,
    ) -> None:
        """Reads and optimises the graph; takes as long as that takes, without holding the GIL.

        Args:
            model: The ONNX file; external data is found beside it.
            signature: Of that model.
            providers: ONNX Runtime's names, in order of preference.
            device_id: Of a GPU provider.
            runtime: The model's settings.
            prepack: Copy weights into the form that kernels like best: quicker, and in memory twice where the first
                form is only mapped.

        Raises:
            ModelFailure: ONNX Runtime cannot load the model.
            MemoryBudgetExceeded: It does not fit the memory it may take.
        """
        options = _options(runtime)
        if not prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            self._session: Any = ort.InferenceSession(
                str(model), options, providers=_with_options(providers, device_id, runtime)
            )
        except Exception as error:
            raise load_failure(error) from error
        self._session.disable_fallback()
        # The compiled session below ONNX Runtime's Python class: that class checks input names again and makes run
        # options anew for each run, which doubles the cost of a small model's run (4.5 us instead of 2.5).
        self._run = self._session._sess.run
        self._run_bound = self._session._sess.run_with_iobinding
        self._run_options = ort.RunOptions()
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self.device = f"cuda:{device_id}" if self.providers[0] in (CUDA, TENSORRT) else "cpu"
        self.device_id = device_id
        self._bfloat16_outputs = frozenset(s.name for s in signature.outputs if s.dtype is DataType.BFLOAT16)
        self._bfloat16 = bool(self._bfloat16_outputs) or any(s.dtype is DataType.BFLOAT16 for s in signature.inputs)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], stop: "Stop | None" = None) -> list[Array]:
        """Runs the model once, on host arrays.

        Args:
            inputs: By name, of the signature's dtypes and of shapes that fit it.
            outputs: Names of the outputs wanted.
            stop: Can end the run from another thread.

        Returns:
            The outputs' values, in that order.

        Raises:
            ModelFailure: The model raised.
            InputsRefused: The model cannot run on such inputs.
            ModelTimedOut: It was stopped.
            MemoryBudgetExceeded: The arena met its limit.
        """
        try:
            options = self._run_options if stop is None else stop.options
            if self._bfloat16:
                return self._run_values(inputs, outputs, options)
            values: list[Array] = self._run(outputs, inputs, options)
        except Exception as error:
            raise run_failure(error) from error
        return values

    def bind(self) -> Any:
        """Returns a new IO binding of this session."""
        return self._session.io_binding()

    def run_bound(self, binding: Any) -> None:
        """Runs the model once on what `binding` binds. Raises as `run`."""
        try:
            self._run_bound(binding._iobinding, self._run_options)
        except Exception as error:
            raise run_failure(error) from error

    def _run_values(self, inputs: Mapping[str, Array], outputs: Sequence[str], options: Any) -> list[Array]:
        """Runs through OrtValues: ONNX Runtime's NumPy interface does not know ml_dtypes' bfloat16."""
        given = {name: ort_value(array) for name, array in inputs.items()}
        values = self._session.run_with_ort_values(outputs, given, options)
        return [
            host_array(value) if name in self._bfloat16_outputs else value.numpy()
            for name, value in zip(outputs, values, strict=True)
        ]


def ort_value(array: Array) -> Any:
    """Returns an OrtValue over `array`'s own memory, whatever its dtype; it keeps the array alive."""
    if array.dtype == ml_dtypes.bfloat16:
        bits = np.asarray(array, order="C").view(np.uint16)  # ascontiguousarray gives a scalar a dimension
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def host_array(value: Any) -> Array:
    """Returns a copy of a bfloat16 OrtValue in host memory, which OrtValue.numpy() refuses to make."""
    count = int(np.prod(value.shape(), dtype=np.int64))
    if count == 0:
        return np.empty(value.shape(), ml_dtypes.bfloat16)
    memory = (ctypes.c_uint16 * count).from_address(value.data_ptr())
    array: Array = np.ctypeslib.as_array(memory).copy().view(ml_dtypes.bfloat16).reshape(value.shape())
    return array


def _options(runtime: "Runtime") -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised; ONNX Runtime would print them to standard error as well
    options.intra_op_num_threads = runtime.intra_op_threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _LEVELS[runtime.optimization_level]
    options.enable_cpu_mem_arena = runtime.cpu_arena
    # A spinning pool burns a core that the event loop needs: on 2 cores it halves the throughput of small models.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _with_options(providers: Sequence[str], device_id: int, runtime: "Runtime") -> list[tuple[str, dict[str, str]]]:
    gpu = {"device_id": str(device_id)}
    cuda = gpu | {
        "arena_extend_strategy": _STRATEGIES[runtime.arena_extend_strategy],
        "use_tf32": str(int(runtime.tf32)),
        # The default tries every algorithm out whenever a shape is new, within the request that brings it; and what it
        # then chooses differs from one session to the next, and the answers with it.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if runtime.arena_limit_bytes:
        cuda["gpu_mem_limit"] = str(int(runtime.arena_limit_bytes))
    by_name: dict[str, dict[str, str]] = {CPU: {}, CUDA: cuda, TENSORRT: gpu}
    return [(name, by_name[name]) for name in providers]
