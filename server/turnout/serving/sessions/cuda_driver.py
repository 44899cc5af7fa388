"""CUDA without ONNX Runtime: the devices of this machine as the driver reports them, and CUDA's runtime library."""

import contextlib
import ctypes
from dataclasses import dataclass

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """A CUDA device as reported by the driver.

    Attributes:
        index: Device number, as in `device_ids`.
        name: Name, such as `NVIDIA H100 80GB HBM3`.
        capability: Compute capability, such as `9.0`.
    """

    index: int
    name: str
    memory_bytes: int
    capability: str


@dataclass(frozen=True, slots=True)
class CudaDriver:
    """The report of the CUDA driver. `version` is the highest CUDA version that it supports, "" without a driver.

    `detail` says why there are no devices; "" if there are some.
    """

    version: str
    devices: tuple[CudaDevice, ...]
    detail: str = ""


def cuda_driver() -> CudaDriver:
    """Queries the CUDA driver for its devices. Needs neither the CUDA toolkit nor ONNX Runtime."""
    if (cuda := shared_library("libcuda.so.1")) is None:
        return CudaDriver("", (), "no NVIDIA driver (libcuda.so.1) is installed here")
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    named = f"{version.value // 1000}.{version.value % 1000 // 10}"
    count = ctypes.c_int()
    code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if code:
        return CudaDriver(named, (), f"the NVIDIA driver is installed but reports: {_error_name(cuda, code)}")
    if not count.value:
        return CudaDriver(named, (), "the NVIDIA driver is installed but reports no device")
    return CudaDriver(named, tuple(_device(cuda, index) for index in range(count.value)))


def cuda_runtime() -> ctypes.CDLL | None:
    """Returns CUDA's runtime library; None if it is not found."""
    return shared_library("libcudart.so.13", "libcudart.so.12", "libcudart.so")


def shared_library(*names: str) -> ctypes.CDLL | None:
    """Returns the first of these shared libraries that can be loaded; None if none can."""
    for name in names:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None


def _device(cuda: ctypes.CDLL, index: int) -> CudaDevice:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return CudaDevice(index, name.value.decode("utf-8", "replace"), memory.value, f"{major.value}.{minor.value}")


def _error_name(cuda: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    if cuda.cuGetErrorName(code, ctypes.byref(text)) or text.value is None:
        return f"error {code}"
    return text.value.decode("ascii", "replace")
