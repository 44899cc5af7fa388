"""Metrics of GPUs. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from turnout.telemetry.families import Family, Labels


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU at the time of a scrape. Values that the GPU or its driver does not report are None.

    Attributes:
        index: Index of the GPU on this machine, as in nvidia-smi.
        uuid: Permanent id of the GPU.
        device: Device name that versions use (`cuda:0`), which depends on CUDA_VISIBLE_DEVICES; "" if no version uses
            the GPU.
        utilization: Share of the last sampling interval (at most 1 s) in which a kernel ran, 0 to 1.
        memory_used: Memory in use by all processes, in bytes.
        memory_total: Total memory, in bytes.
        process_memory: Memory in use by this process, in bytes.
    """

    index: int
    uuid: str
    device: str
    utilization: float | None
    memory_used: int | None
    memory_total: int | None
    process_memory: int | None

    @property
    def labels(self) -> Labels:
        """Labels of the GPU's series."""
        return {"index": str(self.index), "uuid": self.uuid, "device": self.device}


_FAMILIES: Sequence[tuple[str, str, Callable[[Gpu], float | None]]] = (
    (
        "turnout_gpu_utilization_ratio",
        "Share of the last sampling interval, at most a second, in which a kernel ran, 0 to 1.",
        lambda gpu: gpu.utilization,
    ),
    ("turnout_gpu_memory_used_bytes", "GPU memory in use by all processes.", lambda gpu: gpu.memory_used),
    ("turnout_gpu_memory_total_bytes", "Total GPU memory.", lambda gpu: gpu.memory_total),
    ("turnout_gpu_process_memory_bytes", "GPU memory in use by this process.", lambda gpu: gpu.process_memory),
)


def gpu_families(gpus: Sequence[Gpu]) -> Iterator[Family]:
    """Returns the families of one scrape; they have no series if there is no GPU."""
    for name, text, read in _FAMILIES:
        samples = [(gpu.labels, value) for gpu in gpus if (value := read(gpu)) is not None]
        yield Family(name, "gauge", text, samples)
