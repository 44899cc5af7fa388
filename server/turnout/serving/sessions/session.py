"""An ONNX Runtime session of one version on one device.

`Session.run` is thread-safe, and on the CPU it is shared by a version's runners. On CUDA each runner has its own
`BoundRunner` (`turnout.serving.sessions.io_binding`), since an IO binding serves one run at a time.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnxruntime as ort

from turnout.errors import InputsRefused
from turnout.registry.manifest.signature import DataType
from turnout.serving.sessions.capture_gate import GATED, LOADS, RUNS, capturing
from turnout.serving.sessions.providers import CPU, CUDA, TENSORRT
from turnout.serving.sessions.runtime_errors import load_failure, run_failure
from turnout.serving.sessions.spec import SessionSpec
from turnout.serving.sessions.tensor import Array

if TYPE_CHECKING:  # importing settings takes 0.16 s, which would delay replacement child processes
    from turnout.config import Runtime

Run = Callable[[Mapping[str, Array], Sequence[str]], list[Array]]
"""Runs a model: takes inputs by name and the names of requested outputs; returns their values in that order."""


MakeRunner = Callable[[], AbstractContextManager[Run]]
"""Makes the `Run` of one runner thread, in that thread; leaving the context frees the thread's resources."""

_BFLOAT16 = 16
"""ONNX's number for the element type (TensorProto.BFLOAT16)."""

_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_GRAPH_ID, _NO_GRAPH = "gpu_graph_id", "-1"
"""Run option with the id of the CUDA graph to capture or launch, and its value for a plain run
(onnxruntime_run_options_config_keys.h, kOrtRunOptionsConfigCudaGraphAnnotation). Without the option, a session that
captures treats a run as one of graph 0."""

_DISABLED_OPTIMIZERS = ("MatmulTransposeFusion",)
"""Optimizers of ONNX Runtime that are not used. This one makes one operator of a `Transpose` and a `MatMul`. Where they
sum over a dimension of 0, that operator leaves its output uninitialised: the answer is what was in memory, such as the
values of another request. Few graphs are faster with it; in those of attention, it finds nothing to do.
"""

_STRATEGIES = {"next_power_of_two": "kNextPowerOfTwo", "same_as_requested": "kSameAsRequested"}


class Stop:
    """Stops one run: ONNX Runtime checks between two nodes of the graph whether to continue."""

    def __init__(self) -> None:
        self.options = ort.RunOptions()

    def __call__(self) -> None:
        """Makes the run raise ModelTimedOut before its next node."""
        self.options.terminate = True


class Session:
    """A model in memory on one device.

    Attributes:
        providers: Execution providers that the session actually uses, in order.
        device: `cpu` or `cuda:N`.
        captures: Whether its runs may be captured as CUDA graphs; they then take place one at a time.
        tensorrt: Options passed to the TensorRT provider, for further sessions of the version.
        gated: Whether its use of a GPU passes `turnout.serving.sessions.capture_gate`, so that it waits while another
            session captures; only if captures are expected in this process.
    """

    def __init__(self, spec: SessionSpec, *, prepack: bool = True, captures: bool = False) -> None:
        """Reads and optimises the graph, which may take long; the GIL is not held.

        With `prepack`, weights are copied into the layout that kernels prefer: faster, but it doubles the memory of
        weights that are otherwise only mapped. With `captures`, runs may be captured as CUDA graphs (the CUDA
        provider's option `enable_cuda_graph`); on the CPU the same calls are made and nothing is captured.

        Raises:
            ModelFailure: ONNX Runtime cannot load the model, or cannot capture it because it has control flow or nodes
                without a kernel in the CUDA provider.
            MemoryBudgetExceeded: The model does not fit into the permitted memory.
        """
        options = _options(spec.runtime)
        if not prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        on_gpu = any(name != CPU for name in spec.providers)
        if captures:
            GATED.expect_captures()
        self.gated = captures or (on_gpu and GATED.add(self))
        try:
            with LOADS if self.gated else nullcontext():
                self._session: Any = ort.InferenceSession(
                    str(spec.model),
                    options,
                    providers=_with_options(spec, captures=captures),
                    # Otherwise the CPU takes over a model that the GPU cannot load, with a note on standard output.
                    enable_fallback=False,
                    disabled_optimizers=_DISABLED_OPTIMIZERS,
                )
        except Exception as error:
            raise load_failure(error) from error
        # Use the compiled session below ONNX Runtime's Python class. The class checks input names again and creates run
        # options for each run, which nearly doubles the cost of a small model's run (4.5 us instead of 2.5).
        self._run = self._session._sess.run
        self._run_bound = self._session._sess.run_with_iobinding
        self._run_options = ort.RunOptions()
        self.captures = captures
        self.tensorrt = spec.tensorrt
        # ONNX Runtime, "Using CUDA Graphs in the CUDA EP": "Multi-threaded usage is currently not supported".
        self._one_at_a_time = threading.Lock() if captures else None
        if captures:
            self._run_options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self.device = f"cuda:{spec.device_id}" if self.providers[0] in (CUDA, TENSORRT) else "cpu"
        self.device_id = spec.device_id
        self._bfloat16 = any(s.dtype is DataType.BFLOAT16 for s in (*spec.signature.inputs, *spec.signature.outputs))

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], stop: "Stop | None" = None) -> list[Array]:
        """Runs the model once on host arrays; returns the values of `outputs` in that order.

        The inputs have the signature's dtypes and matching shapes. `stop` stops the run from another thread.

        Raises:
            ModelFailure: The model raised an error.
            InputsRefused: The model cannot run on these inputs.
            ModelTimedOut: The run was stopped.
            MemoryBudgetExceeded: The arena reached its limit.
        """
        try:
            options = self._run_options if stop is None else stop.options
            run = self._run_values if self._bfloat16 else self._run
            if not self.gated:
                values: list[Array | None] = run(outputs, inputs, options)
            else:
                if self.captures and stop is not None:
                    options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
                with self.turn():
                    values = run(outputs, inputs, options)
        except Exception as error:
            raise run_failure(error) from error
        return computed(outputs, values)

    def bind(self) -> Any:
        """Returns a new IO binding for this session."""
        return self._session.io_binding()

    def run_bound(self, binding: Any) -> None:
        """Runs the model once on the values of `binding`. Raises as `run`."""
        try:
            if not self.gated:
                self._run_bound(binding._iobinding, self._run_options)
                return
            with self.turn():
                self._run_bound(binding._iobinding, self._run_options)
        except Exception as error:
            raise run_failure(error) from error

    def value_like(self, array: Array) -> Any:
        """Returns an uninitialized OrtValue on the session's device with an array's shape and dtype. It is in the
        session's own arena if ONNX Runtime supports that (1.31 does), so that its memory is freed with the session.
        """
        make = getattr(self._session, "create_ortvalue_from_shape_and_type", ort.OrtValue.ortvalue_from_shape_and_type)
        device = self.device.partition(":")[0]
        return make(list(array.shape), array.dtype.type, device, self.device_id if device != "cpu" else 0)

    def capture(self, binding: Any, graph: int) -> Callable[[], None]:
        """Captures a run on the values of `binding` as a CUDA graph; returns a function that launches it.

        ONNX Runtime runs the model twice, for allocations that are not possible during the capture, and a third time to
        capture it. Capture and launches must take place in the same thread, and launches inside `turn`. The bound
        values must be on the session's device and stay at the same addresses. No other capture in this process has used
        the number `graph`, which is 1 or more: ONNX Runtime keeps a graph under its number as long as the session
        exists, and would launch it instead of a new one.

        Raises:
            TurnoutError: As `run`: the model cannot be run or captured.
            TimeoutError: A run on a GPU or a load was always in progress.
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
        """Holds off captures, and for a session that captures also its other runs, while the context is entered. Every
        use of a GPU by a gated session must be inside it.
        """
        with RUNS, self._one_at_a_time or nullcontext():
            yield

    def close(self) -> None:
        """Frees the memory, once all runs have ended and all bindings are gone. The session is unusable afterwards."""
        with LOADS if self.gated else nullcontext():
            self._session = self._run = self._run_bound = None
        GATED.discard(self)

    def _run_values(self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Any) -> list[Array | None]:
        """Runs with OrtValues, since ONNX Runtime's NumPy interface does not support ml_dtypes' bfloat16."""
        given = {name: ort_value(array) for name, array in inputs.items()}
        values = self._session.run_with_ort_values(outputs, given, options)
        return list(map(host_array, values))


def ort_value(array: Array) -> Any:
    """Returns an OrtValue over the memory of `array`, of any dtype; it keeps the array alive."""
    if array.dtype == ml_dtypes.bfloat16:
        bits = np.asarray(array, order="C").view(np.uint16)  # ascontiguousarray would add a dimension to a scalar
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def computed(outputs: Sequence[str], values: Sequence[Array | None]) -> list[Array]:
    """Returns the values of outputs. Raises InputsRefused if one was not computed: some kernels, such as that of
    QLinearSoftmax, compute nothing from an empty tensor.
    """
    found: list[Array] = []
    for name, value in zip(outputs, values, strict=True):
        if value is None:
            raise InputsRefused.at("inputs", f"the model computes no {name} from them")
        found.append(value)
    return found


def host_array(value: Any) -> Array | None:
    """Returns the array of an OrtValue in host memory; a copy for bfloat16, which OrtValue.numpy() lacks.

    None for an output that the run has not computed: every other method of its OrtValue would end the process.
    """
    if not value.has_value():
        return None
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()  # type: ignore[no-any-return]
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
    # A spinning pool takes a core from the event loop: on 2 cores it halves the throughput of small models.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _with_options(spec: SessionSpec, *, captures: bool) -> list[tuple[str, dict[str, str]]]:
    runtime, gpu = spec.runtime, {"device_id": str(spec.device_id)}
    cuda = gpu | {
        "arena_extend_strategy": _STRATEGIES[runtime.arena_extend_strategy],
        "use_tf32": str(int(runtime.tf32)),
        # The default tries every algorithm for each new shape, within the request that brings it. Its choice also
        # differs between sessions, and with it the answers.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if runtime.arena_limit_bytes:
        cuda["gpu_mem_limit"] = str(int(runtime.arena_limit_bytes))
    if captures:
        cuda["enable_cuda_graph"] = "1"
    by_name: dict[str, dict[str, str]] = {CPU: {}, CUDA: cuda, TENSORRT: gpu | dict(spec.tensorrt)}
    return [(name, by_name[name]) for name in spec.providers]
