"""IO binding for GPU runs: inputs come from reused pinned host buffers, and only requested outputs are bound.

A `BoundRunner` belongs to one runner thread, since a binding and its buffers serve one run at a time. Copies from
pinned memory reach the device by DMA, without the staging copy that the driver makes of pageable memory.
"""

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import ml_dtypes
import numpy as np
from onnx import TensorProto

from turnout.registry.manifest.signature import DataType, Signature
from turnout.serving.sessions.capture_gate import RUNS
from turnout.serving.sessions.cuda_driver import cuda_runtime
from turnout.serving.sessions.session import Session, computed, host_array, ort_value
from turnout.serving.sessions.tensor import Array

Allocate = Callable[[int], "HostBuffer"]
"""Allocates a buffer of at least the given size in bytes."""

_PORTABLE = 1  # cudaHostAllocPortable: pinned for every CUDA context of the process


class HostBuffer:
    """Host memory of `size` bytes at a fixed address."""

    def __init__(self, size: int, address: int, owner: Any, free: Callable[[], None] | None = None) -> None:
        self.size = size
        self.address = address
        self._owner = owner
        self._free = free

    def view(self, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
        """Returns an array of `dtype` and `shape` over the first bytes of the buffer."""
        nbytes = dtype.itemsize * math.prod(shape)
        memory = (ctypes.c_ubyte * nbytes).from_address(self.address)
        array: Array = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
        return array

    def close(self) -> None:
        """Frees the memory."""
        if self._free is not None:
            self._free()
            self._free = None
        self._owner = None


def pageable(size: int) -> HostBuffer:
    """Allocates ordinary memory, for hosts without CUDA and for tests."""
    array = np.empty(max(size, 1), np.uint8)
    return HostBuffer(size, array.ctypes.data, array)


def pinned_allocator(*, gated: bool) -> Allocate:
    """Returns an allocator of page-locked memory, or of ordinary memory if the CUDA runtime is not found.

    With `gated`, it waits while a CUDA graph is captured, as the sessions that use the memory do.
    """
    gate, cudart = RUNS if gated else nullcontext(), cuda_runtime()
    return pageable if cudart is None else lambda size: _pinned(cudart, size, gate)


def _pinned(cudart: ctypes.CDLL, size: int, gate: AbstractContextManager[None]) -> HostBuffer:
    pointer = ctypes.c_void_p()
    with gate:
        status = cudart.cudaHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)), ctypes.c_uint(_PORTABLE))
    if status != 0 or not pointer.value:  # page-locked memory is scarce; ordinary memory works too, but is slower
        return pageable(size)
    address = pointer.value

    def free() -> None:
        with gate:
            cudart.cudaFreeHost(ctypes.c_void_p(address))

    return HostBuffer(size, address, None, free)


def bindable(signature: Signature) -> bool:
    """Returns whether a model's tensors can be bound: ONNX Runtime does not bind strings."""
    return all(spec.dtype is not DataType.STRING for spec in (*signature.inputs, *signature.outputs))


class BoundRunner:
    """Runs a session through its own binding. Not thread-safe: it belongs to one runner thread."""

    def __init__(self, session: Session, allocate: Allocate) -> None:
        self._session = session
        self._binding = session.bind()
        self._allocate = allocate
        self._buffers: dict[str, HostBuffer] = {}

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the model once. Arguments, result and errors are those of `Session.run`."""
        binding = self._binding
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        for name, array in inputs.items():
            self._bind_input(name, array)
        for name in outputs:
            binding.bind_output(name, "cpu")
        self._session.run_bound(binding)
        values = [host_array(value) for value in binding.get_outputs()]
        binding.clear_binding_outputs()  # the next run's outputs must not keep this run's memory
        return computed(outputs, values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Frees the host buffers and clears the binding."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()

    def _bind_input(self, name: str, array: Array) -> None:
        if array.size == 0:
            self._binding.bind_ortvalue_input(name, ort_value(array))  # there is nothing to pin
            return
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < array.nbytes:
            if buffer is not None:
                buffer.close()
            # The next power of two, so that slightly varying shapes do not allocate each time.
            buffer = self._buffers[name] = self._allocate(1 << (array.nbytes - 1).bit_length())
        np.copyto(buffer.view(array.dtype, array.shape), array)
        element = TensorProto.BFLOAT16 if array.dtype == ml_dtypes.bfloat16 else array.dtype.type
        self._binding.bind_input(name, "cpu", 0, element, list(array.shape), buffer.address)
