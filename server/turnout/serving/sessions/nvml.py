"""What NVIDIA's management library (NVML) tells of the GPUs of this machine; nothing, quietly, if it is not there.

The bindings (`nvidia-ml-py`, of the `gpu` extra) are looked for when a server starts, and not before.
"""

import ctypes
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from structlog.typing import FilteringBoundLogger

from turnout.telemetry.metrics.gpu import Gpu

ValueT = TypeVar("ValueT")


class Nvml:
    """NVML, initialised. Its methods take milliseconds and belong on a thread of their own."""

    def __init__(self, library: Any, log: FilteringBoundLogger) -> None:
        """Takes over the bindings, which are initialised."""
        self._library = library
        self._log = log

    @classmethod
    def open(cls, log: FilteringBoundLogger) -> Self | None:
        """Returns NVML; None if there are no bindings, no driver or no device, which only the debug log is told."""
        if "pynvml" not in sys.modules and not _driver_there():
            log.debug("GPUs are not watched", reason="there is no NVIDIA driver")
            return None
        try:
            library = importlib.import_module("pynvml")
        except ImportError:
            log.debug("GPUs are not watched", reason="nvidia-ml-py is not installed (the extra `gpu`)")
            return None
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            log.debug("GPUs are not watched", reason=str(error))
            return None
        return cls(library, log)

    def read(self, devices: Mapping[str, str]) -> Sequence[Gpu]:
        """Returns every GPU that the driver shows to this process.

        Args:
            devices: What versions call the GPUs that they are on (`cuda:0`), by PCI address as CUDA writes it.
        """
        count = self._query(lambda: int(self._library.nvmlDeviceGetCount()))
        found = [self._query(partial(self._gpu, index, devices)) for index in range(count or 0)]
        return [gpu for gpu in found if gpu is not None]

    def close(self) -> None:
        """Lets go of the library."""
        self._query(self._library.nvmlShutdown)

    def _gpu(self, index: int, devices: Mapping[str, str]) -> Gpu:
        library = self._library
        handle = library.nvmlDeviceGetHandleByIndex(index)
        address = pci_address(_text(library.nvmlDeviceGetPciInfo(handle).busId))
        percent = self._query(lambda: int(library.nvmlDeviceGetUtilizationRates(handle).gpu))
        memory = self._query(lambda: library.nvmlDeviceGetMemoryInfo(handle))
        return Gpu(
            index,
            _text(library.nvmlDeviceGetUUID(handle)),
            next((device for written, device in devices.items() if pci_address(written) == address), ""),
            None if percent is None else percent / 100,
            None if memory is None else int(memory.used),
            None if memory is None else int(memory.total),
            self._query(lambda: self._of_this_process(handle)),
        )

    def _of_this_process(self, handle: Any) -> int | None:
        """Returns the memory that this process has on a GPU.

        None if the driver does not tell, or knows the process by another number, as in a container of its own
        process namespace.
        """
        for process in self._library.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == os.getpid():
                return process.usedGpuMemory  # type: ignore[no-any-return]  # the bindings have no types
        return None

    def _query(self, ask: Callable[[], ValueT]) -> ValueT | None:
        """Returns what `ask` does; None if the GPU does not support the question, or is lost."""
        try:
            return ask()
        except self._library.NVMLError as error:
            self._log.debug("a GPU does not tell", reason=str(error))
            return None


def _driver_there() -> bool:
    """Tells whether NVML may be there; asked first, since the bindings take 50 ms of CPU to import."""
    if sys.platform != "linux":
        return True  # they know where to look
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def pci_address(text: str) -> tuple[int, ...]:
    """Returns domain, bus, device and function; CUDA writes a domain of four digits (`0000:3B:00.0`), NVML of eight."""
    return tuple(int(part, 16) for part in text.strip("\0").replace(".", ":").split(":"))


def _text(value: str | bytes) -> str:
    """Older bindings return bytes."""
    return value if isinstance(value, str) else value.decode()
