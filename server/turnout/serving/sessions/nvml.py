"""Reads the state of this machine's GPUs from NVIDIA's management library (NVML); does nothing if it is missing.

The bindings (`nvidia-ml-py`, in the `gpu` extra) are imported when a server starts, not before.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from structlog.typing import FilteringBoundLogger

from turnout.serving.sessions.cuda_driver import shared_library
from turnout.telemetry.metrics.gpu import Gpu

ValueT = TypeVar("ValueT")


class Nvml:
    """The initialised NVML library. Its methods take milliseconds, so call them in a separate thread."""

    def __init__(self, library: Any, log: FilteringBoundLogger) -> None:
        self._library = library
        self._log = log

    @classmethod
    def open(cls, log: FilteringBoundLogger) -> Self | None:
        """Returns NVML; None, with a debug log entry, if there are no bindings, no driver or no device."""
        # The driver is looked for first, since importing the bindings takes 50 ms of CPU time. Elsewhere than on Linux,
        # the bindings know where to look.
        if "pynvml" not in sys.modules and sys.platform == "linux" and shared_library("libnvidia-ml.so.1") is None:
            log.debug("GPUs are not monitored", reason="there is no NVIDIA driver")
            return None
        try:
            library = importlib.import_module("pynvml")
        except ImportError:
            log.debug("GPUs are not monitored", reason="nvidia-ml-py is not installed (the extra `gpu`)")
            return None
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            log.debug("GPUs are not monitored", reason=str(error))
            return None
        return cls(library, log)

    def read(self, devices: Mapping[str, str]) -> Sequence[Gpu]:
        """Returns every GPU that the driver shows to this process.

        `devices` are the names of the GPUs that versions run on (`cuda:0`), by PCI address in CUDA's notation.
        """
        count = self._query(lambda: int(self._library.nvmlDeviceGetCount()))
        found = [self._query(partial(self._gpu, index, devices)) for index in range(count or 0)]
        return [gpu for gpu in found if gpu is not None]

    def close(self) -> None:
        """Shuts the library down."""
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
        """Returns the bytes that this process uses on a GPU.

        None if the driver does not report it, or knows the process by another id, as in a container with its own
        process namespace.
        """
        for process in self._library.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == os.getpid():
                return process.usedGpuMemory  # type: ignore[no-any-return]  # the bindings have no types
        return None

    def _query(self, ask: Callable[[], ValueT]) -> ValueT | None:
        """Returns the result of `ask`; None if the GPU does not support the query or is lost."""
        try:
            return ask()
        except self._library.NVMLError as error:
            self._log.debug("a GPU query failed", reason=str(error))
            return None


def pci_address(text: str) -> tuple[int, ...]:
    """Parses domain, bus, device and function. CUDA's domains have four digits (`0000:3B:00.0`), NVML's eight."""
    return tuple(int(part, 16) for part in text.strip("\0").replace(".", ":").split(":"))


def _text(value: str | bytes) -> str:
    """Returns text; older bindings return bytes."""
    return value if isinstance(value, str) else value.decode()
