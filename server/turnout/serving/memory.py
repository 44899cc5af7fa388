"""How much memory the process and the GPUs have in use, and giving back what is not needed any more."""

import ctypes
import gc
import os
from pathlib import Path

_STATM = Path("/proc/self/statm")
_CUDART = ("libcudart.so.13", "libcudart.so.12")


def resident_bytes() -> int:
    """Returns the resident set of this process, in bytes; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def cuda_used_bytes(device_id: int) -> int:
    """Returns the memory in use on a CUDA device by all processes, in bytes; 0 where there is none."""
    for name in _CUDART:
        try:
            cudart = ctypes.CDLL(name)
        except OSError:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if cudart.cudaSetDevice(device_id) or cudart.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)):
            return 0
        return total.value - free.value
    return 0


def used_bytes(device: str) -> int:
    """Returns what is in use on `cpu` (by this process) or `cuda:N` (by all)."""
    return resident_bytes() if device == "cpu" else cuda_used_bytes(int(device.partition(":")[2]))


def give_back() -> None:
    """Returns freed memory to the operating system.

    glibc keeps what large models free on its heaps: without this, 200 cycles of loading and unloading a 20 MB model
    left the process larger than 20 did.
    """
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc: there is nothing to ask
        return
