"""The tables `[runtime]` and `[batching]`: how models run in ONNX Runtime, and how their requests are batched."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, model_validator

from turnout.config.sections import Section
from turnout.config.values import Count, CountOrNone, DeviceIds, Duration, FilePath, Providers, SizeOrNone

_GIB = 1024**3


class BatchingSettings(Section):
    """How requests are batched.

    Attributes:
        enabled: Whether versions are batched. If false, manifests cannot turn batching on.
        max_rows: Maximum number of rows in a batch. A manifest can lower it.
        max_delay_ms: How long an idle runner waits for more requests to fill a batch, but at most half of the time
            until a request's deadline. 0 for not at all.
        only_where_it_pays: Use only batch sizes for which warm-up measured a batch to cost less than separate runs.
    """

    enabled: bool = True
    max_rows: Count = 32
    max_delay_ms: Duration = 0.0
    only_where_it_pays: bool = True

    @property
    def most_rows(self) -> int:
        """Maximum number of rows in a batch; 0 if versions are not batched."""
        return self.max_rows if self.enabled else 0


class DimensionSizes(Section):
    """Sizes of a free dimension for which TensorRT builds engines.

    Attributes:
        min: Smallest size.
        opt: Size for which the engines are fastest; 0 for `max`.
        max: Largest size.
    """

    min: CountOrNone = 1
    opt: CountOrNone = 0
    max: Annotated[Count, Field(le=2**31 - 1)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= (self.opt or self.max) <= self.max:
            raise ValueError("expected min <= opt <= max")
        return self


class Runtime(Section):
    """How models run in ONNX Runtime.

    Attributes:
        providers: Execution providers in order of preference. If one that you list cannot be used, the load fails.
            `auto` uses CUDA if it works, else the CPU.
        device_ids: Device ids of the GPUs to use. A version gets one session on each.
        gpus_per_version: Number of these devices that a version is loaded on: those with the least memory in use by
            other versions. 0 for all.
        intra_op_threads: Number of threads that one run may use on the CPU; 0 leaves it to ONNX Runtime.
        runners: Maximum number of concurrent runs of a version, per device. 0 chooses: on the CPU, the number of whole
            cores that the process may use (1 for a control group's quota of 1.5), divided between workers; on a GPU, as
            many as improve throughput.
        optimization_level: ONNX Runtime's graph optimization level.
        cpu_arena: Keep freed CPU memory for the next run instead of returning it after each run.
        gpu_in_each_worker: With several workers, load a copy of each version on the GPU for every worker. Without this,
            a server with several workers does not start on a machine with a GPU that versions may use.
        arena_limit_bytes: Maximum memory of a version on each GPU, for its weights and the tensors of its runs
            together; 0 for no limit.
        arena_extend_strategy: Whether an arena grows by doubling, or by the requested size.
        tf32: Allow a GPU to multiply float32 values with ten bits of mantissa (TF32), which is faster but less precise.
        tensorrt_cache: Directory on a local disk in which built TensorRT engines are cached by version, GPU model, ONNX
            Runtime, TensorRT and sizes; "" builds them at each load, and does not use TensorRT for versions in child
            processes. Other users must not be able to write to it, since engines are code.
        tensorrt_cache_max_bytes: Maximum size of the engines in that cache. The engines of the versions that were
            loaded least recently are removed first. 0 for no limit.
        tensorrt_fp16: `golden` lets TensorRT use FP16 for a version whose golden cases pass with FP16, within its
            tolerances; `off` never uses FP16.
        tensorrt_sizes: Sizes of free dimensions for which TensorRT builds engines, by the dimension's name; a dimension
            without a name is called INPUT.AXIS. The number of rows needs no entry if the version is batched: it is 1 to
            `batching.max_rows`. TensorRT is not used for a version with a free dimension of unknown sizes, and requests
            of other sizes are rejected.
        tensorrt_build_timeout_s: Time limit for building the TensorRT engines of a version. If it passes, or the build
            fails, the version is loaded with the next of `providers`; if there is none, the version is Failed.
        cuda_graphs: `auto` captures the runs of a version on a GPU as CUDA graphs, one for each batch size (1, 2, 4, 8,
            ... rows), if that is possible and the outputs equal those of plain runs; `off` never does.
        gpu_spin_us: How long an idle runner of a version on a GPU, one at a time, polls for the next request before it
            sleeps. It starts the next run sooner, but occupies a core while it polls. It stops polling if requests are
            too rare. 0 for no polling, as on the CPU.
        inline_threshold_us: A version on the CPU whose run takes less than this runs on the event loop itself if no
            other request waits, because handing it to a thread would cost more. 0 turns that off.
        isolation: `process` runs a version in child processes, so that a native crash, a hang or running out of memory
            does not affect the server; each child needs a copy of the model in memory. `thread` runs it in the server's
            process. `auto` uses child processes if the graph has an operator that certain input values can crash, or
            cause to use unlimited memory or time.
        processes: Maximum number of child processes of a version; 0 for as many as it has runners.
        memory_limit_bytes: Maximum memory of the runs in a child process on the CPU, in addition to the loaded model; 0
            for no limit.
        kill_after_s: How long a run in a child process may continue after all of its requests have expired or were
            cancelled. After that, the process is killed and restarted.
    """

    providers: Providers = "auto"
    device_ids: DeviceIds = (0,)
    gpus_per_version: CountOrNone = 0
    intra_op_threads: CountOrNone = 1
    runners: CountOrNone = 0
    optimization_level: Literal["all", "extended", "basic", "disabled"] = "all"
    cpu_arena: bool = True
    gpu_in_each_worker: bool = False
    arena_limit_bytes: SizeOrNone = ByteSize(0)
    arena_extend_strategy: Literal["next_power_of_two", "same_as_requested"] = "same_as_requested"
    tf32: bool = False
    tensorrt_cache: FilePath = ""
    tensorrt_cache_max_bytes: SizeOrNone = ByteSize(20 * _GIB)
    tensorrt_fp16: Literal["off", "golden"] = "off"
    tensorrt_sizes: Mapping[str, DimensionSizes] = Field(default_factory=dict)
    tensorrt_build_timeout_s: Annotated[Duration, Field(gt=0, le=86_400)] = 1800.0
    cuda_graphs: Literal["off", "auto"] = "off"
    gpu_spin_us: Annotated[CountOrNone, Field(le=10_000)] = 0
    inline_threshold_us: CountOrNone = 300
    isolation: Literal["auto", "thread", "process"] = "auto"
    processes: Annotated[CountOrNone, Field(le=256)] = 0
    memory_limit_bytes: SizeOrNone = ByteSize(0)
    kill_after_s: Duration = 5.0
