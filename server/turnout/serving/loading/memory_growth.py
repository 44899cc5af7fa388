"""Measures the memory that each load takes, also while several versions are loaded at the same time.

The system says only how much a whole process, or a whole GPU, has in use. What that grows by while several loads are
under way is divided among them by the sizes of their files: otherwise each of them would count the others' memory too.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from turnout.serving.sessions.memory import used_bytes


@dataclass(slots=True, eq=False)
class Growth:
    """The memory that the load of a version of `size` bytes has taken: bytes by device, negative for freed memory."""

    size: int
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by device that the load took; at least 0."""
        return {device: max(int(share), 0) for device, share in self.shares.items()}


class MemoryGrowth:
    """Divides the growth of memory among the loads that are under way. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loads: dict[str, list[Growth]] = {}
        self._used: dict[str, int] = {}

    @contextmanager
    def measuring(self, devices: Sequence[str], size: int) -> Iterator[Growth]:
        """Measures the memory that a load of files of `size` bytes takes while the context is entered.

        The growth that it yields is complete once the context has been left.
        """
        own = Growth(max(size, 1), dict.fromkeys(devices, 0.0))
        with self._lock:
            for device in devices:
                self._divide(device)
                self._loads.setdefault(device, []).append(own)
        try:
            yield own
        finally:
            with self._lock:
                for device in devices:
                    self._divide(device)
                    self._loads[device].remove(own)

    def _divide(self, device: str) -> None:
        """Divides the growth since the last call among the loads that were under way."""
        used, loads = used_bytes(device), self._loads.get(device, ())
        grown, whole = used - self._used.get(device, used), sum(load.size for load in loads)
        for load in loads:
            load.shares[device] += grown * load.size / whole
        self._used[device] = used


MEMORY_GROWTH = MemoryGrowth()
"""The loads of this process."""
