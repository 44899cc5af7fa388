"""One ONNX Runtime session of one version on one device.

`Session.run` is thread-safe and shared by a version's runners on the CPU. On CUDA each runner takes a `BoundRunner` of
its own (`turnout.serving.sessions.io_binding`), since an IO binding serves one run at a time.
"""

import ctypes
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnxruntime as ort

from turnout.registry.manifest.signature import DataType, Signature
from turnout.serving.sessions.capture_gate import GATED, LOADS, RUNS, capturing
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

_NOTHING: Mapping[str, str] = MappingProxyType({})

_BFLOAT16 = 16
"""ONNX's number of the element type (TensorProto.BFLOAT16)."""

_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_GRAPH_ID, _NO_GRAPH = "gpu_graph_id", "-1"
"""A run's option that names the CUDA graph it captures or launches, and its value for a plain run
(onnxruntime_run_options_config_keys.h, kOrtRunOptionsConfigCudaGraphAnnotation). A session that captures takes a run
without it for one of graph 0."""

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
        captures: Runs of it may be captured as CUDA graphs; they go on one at a time.
        tensorrt: Options that it was given for the TensorRT provider: another session of the version takes them, too.
        gated: It keeps away while another session captures: what it does on a GPU passes
            `turnout.serving.sessions.capture_gate`. Only where captures are expected in this process.
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
        captures: bool = False,
        tensorrt: Mapping[str, str] = _NOTHING,
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
            captures: Let runs be captured as CUDA graphs (the CUDA provider's option `enable_cuda_graph`). On the CPU
                the same calls are made, and nothing is captured.
            tensorrt: Options of the TensorRT provider beside those that `runtime` says.

        Raises:
            ModelFailure: ONNX Runtime cannot load the model, or cannot capture it: it has control flow, or nodes that
                the CUDA provider has no kernels for.
            MemoryBudgetExceeded: It does not fit the memory it may take.
        """
        options = _options(runtime)
        if not prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        on_gpu = any(name != CPU for name in providers)
        if captures:
            GATED.expect_captures()
        self.gated = captures or (on_gpu and GATED.add(self))
        try:
            with LOADS if self.gated else nullcontext():
                self._session: Any = ort.InferenceSession(
                    str(model),
                    options,
                    providers=_with_options(providers, device_id, runtime, tensorrt, captures=captures),
                    # Else what a GPU cannot load is told on standard output, and the CPU serves it.
                    enable_fallback=False,
                )
        except Exception as error:
            raise load_failure(error) from error
        # The compiled session below ONNX Runtime's Python class: that class checks input names again and makes run
        # options anew for each run, which doubles the cost of a small model's run (4.5 us instead of 2.5).
        self._run = self._session._sess.run
        self._run_bound = self._session._sess.run_with_iobinding
        self._run_options = ort.RunOptions()
        self.captures = captures
        self.tensorrt = tensorrt
        # ONNX Runtime, "Using CUDA Graphs in the CUDA EP": "Multi-threaded usage is currently not supported".
        self._one_at_a_time = threading.Lock() if captures else None
        if captures:
            self._run_options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
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
            if self.gated:
                if self.captures and stop is not None:
                    options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
                with self.turn():
                    return self._run_plainly(inputs, outputs, options)
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
            if not self.gated:
                self._run_bound(binding._iobinding, self._run_options)
                return
            with self.turn():
                self._run_bound(binding._iobinding, self._run_options)
        except Exception as error:
            raise run_failure(error) from error

    def value_like(self, array: Array) -> Any:
        """Returns an OrtValue on the session's device with room for an array's like; of its own arena, where ONNX
        Runtime knows that (1.31 does), so that its memory goes when the session does.
        """
        make = getattr(self._session, "create_ortvalue_from_shape_and_type", ort.OrtValue.ortvalue_from_shape_and_type)
        device = self.device.partition(":")[0]
        return make(list(array.shape), array.dtype.type, device, self.device_id if device != "cpu" else 0)

    def capture(self, binding: Any, graph: int) -> Callable[[], None]:
        """Runs the model on what `binding` binds until that is captured as a CUDA graph; returns what launches it.

        ONNX Runtime runs it twice, for what is allocated then cannot be during the capture, and once more to capture
        it. Both have to be called in one thread, and `turn` held around what is returned. What is bound lies on the
        session's device, and has to stay where it is.

        Args:
            binding: Holds values for all inputs and outputs.
            graph: A number from 1 that no other capture in this process had: a graph that a number was given stays as
                long as the session, and would be launched in place of a new one.

        Raises:
            TurnoutError: As `run`: it cannot be run, or not be captured.
            TimeoutError: There was no moment for it, since a run on a GPU or a load was always under way.
        """
        options = ort.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, str(graph))

        def launch() -> None:
            try:
                self._run_bound(binding._iobinding, options)
            except Exception as error:
                raise run_failure(error) from error

        with capturing(), self._one_at_a_time or nullcontext():
            launch()
        return launch

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Is held around what a gated session does on a GPU: no capture goes on meanwhile, and no other run of it if it
        captures.
        """
        with RUNS, self._one_at_a_time or nullcontext():
            yield

    def close(self) -> None:
        """Gives its memory back, once its runs have ended and its bindings are let go. It is of no use after."""
        with LOADS if self.gated else nullcontext():
            self._session = self._run = self._run_bound = None
        GATED.discard(self)

    def _run_plainly(self, inputs: Mapping[str, Array], outputs: Sequence[str], options: Any) -> list[Array]:
        if self._bfloat16:
            return self._run_values(inputs, outputs, options)
        values: list[Array] = self._run(outputs, inputs, options)
        return values

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


def _with_options(
    providers: Sequence[str], device_id: int, runtime: "Runtime", tensorrt: Mapping[str, str], *, captures: bool
) -> list[tuple[str, dict[str, str]]]:
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
    if captures:
        cuda["enable_cuda_graph"] = "1"
    by_name: dict[str, dict[str, str]] = {CPU: {}, CUDA: cuda, TENSORRT: gpu | dict(tensorrt)}
    return [(name, by_name[name]) for name in providers]
