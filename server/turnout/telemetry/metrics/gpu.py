"""Metrics of GPUs. Pure."""

from dataclasses import dataclass

from turnout.telemetry.families import Labels, gauge


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU at the time of a scrape. Values that the GPU or its driver does not report are None. Memory is in bytes.

    Attributes:
        index: Index of the GPU on this machine, as in nvidia-smi.
        uuid: Permanent id of the GPU.
        device: Device name that versions use (`cuda:0`), which depends on CUDA_VISIBLE_DEVICES; "" if no version uses
            the GPU.
    """

    index: int
    uuid: str
    device: str
    utilization: float | None = gauge(
        "turnout_gpu_utilization_ratio",
        "Share of the last sampling interval, at most a second, in which a kernel ran, 0 to 1.",
    )
    memory_used: int | None = gauge("turnout_gpu_memory_used_bytes", "GPU memory in use by all processes.")
    memory_total: int | None = gauge("turnout_gpu_memory_total_bytes", "Total GPU memory.")
    process_memory: int | None = gauge("turnout_gpu_process_memory_bytes", "GPU memory in use by this process.")

    @property
    def labels(self) -> Labels:
        """Labels of the GPU's series."""
        return {"index": str(self.index), "uuid": self.uuid, "device": self.device}
