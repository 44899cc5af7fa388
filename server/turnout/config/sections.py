"""The tables of the file, as frozen values with their defaults.

Durations end in `_s`, `_ms` or `_us`; sizes in `_bytes`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from turnout.config.values import (
    Count,
    CountOrNone,
    DeviceIds,
    Duration,
    FilePath,
    HeaderName,
    HeaderValue,
    HttpUrl,
    Networks,
    OtlpEndpoint,
    Providers,
    Share,
    Size,
    SizeOrNone,
)

_MIB = 1024 * 1024


class Section(BaseModel):
    """A table of the file: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class QueueLimits(Section):
    """Bounds of one version's queue; what would pass them is refused at once, with RESOURCE_EXHAUSTED.

    Attributes:
        max_queue_requests: Most requests that wait for a runner.
        max_queue_bytes: Most bytes of inputs that wait for a runner.
    """

    max_queue_requests: Count = 512
    max_queue_bytes: Size = ByteSize(256 * _MIB)


class Limits(QueueLimits):
    """Bounds on what clients may send; those of the queues hold for each version and can be set per model too.

    A request beyond one of them is refused with INVALID_ARGUMENT before anything walks through it.

    Attributes:
        max_message_bytes: Largest gRPC message, in and out.
        max_stream_items: Most requests under way on one PredictStream; reading from the stream waits beyond that.
        http_max_body_bytes: Largest body of an HTTP request, decompressed.
        http_max_json_bytes: Largest JSON of an HTTP request; more goes into the binary extension or over gRPC.
        max_tensors: Most inputs of a request, and most outputs that it may name.
        max_rank: Most dimensions of a tensor.
        max_name_bytes: Longest name of a model, version, input or output.
        max_elements: Most elements of a request that travel one by one, in JSON or typed contents; raw tensors are
            bounded by the size of the message only.
        max_strings: Most strings of a request.
        max_requests: Most requests under way in the whole server, gRPC and HTTP together; more are refused with
            RESOURCE_EXHAUSTED (429). Health checks, probes and scrapes are always taken.
        max_unfinished_bytes: Most bytes of all requests together that have arrived in part.
        max_connections: Most connections of a listener; more have to wait. Never more than the process may open files,
            less a reserve.
        max_streams: Most calls under way on one connection; clients open no more.
        max_header_bytes: Most bytes of a request's headers, its request line included.
        max_headers: Most headers of a request.
        header_timeout_s: How long a new connection may take to say what it speaks, and a request to send all of its
            headers.
        body_timeout_s: How long a request that has begun may send nothing; between the messages of a stream there is no
            bound. 0: no bound.
        stall_timeout_s: How long a client may read nothing of an answer. 0: no bound.
        idle_timeout_s: How long a connection without a request stays open. 0: for ever.
        max_connection_age_s: How often a listener tells its clients to connect again (GOAWAY), so that load balancers
            can spread them; calls under way have `drain.timeout_s`. 0: never.
    """

    max_message_bytes: Size = ByteSize(64 * _MIB)
    max_stream_items: Count = 256
    http_max_body_bytes: Size = ByteSize(64 * _MIB)
    http_max_json_bytes: Size = ByteSize(16 * _MIB)
    max_tensors: Count = 256
    max_rank: Annotated[Count, Field(le=32)] = 8
    max_name_bytes: Annotated[Count, Field(ge=64)] = 1024
    max_elements: Count = 2 * 1024 * 1024
    max_strings: Count = 512 * 1024
    max_requests: Count = 10_000
    max_unfinished_bytes: Size = ByteSize(512 * _MIB)
    max_connections: Count = 20_000
    max_streams: Annotated[Count, Field(le=100_000)] = 100
    max_header_bytes: Annotated[Size, Field(ge=4096, le=16 * _MIB)] = ByteSize(64 * 1024)
    max_headers: Annotated[Count, Field(ge=16)] = 100
    header_timeout_s: Annotated[Duration, Field(gt=0, le=3600)] = 10.0
    body_timeout_s: Annotated[Duration, Field(le=86_400)] = 30.0
    stall_timeout_s: Annotated[Duration, Field(le=86_400)] = 60.0
    idle_timeout_s: Annotated[Duration, Field(le=2_592_000)] = 600.0
    max_connection_age_s: Annotated[Duration, Field(le=2_592_000)] = 0.0


class TransportSettings(Section):
    """What carries requests.

    Attributes:
        data: What the data listener runs on: `h2corn`, or gRPC's own `grpcio`, which is four times slower and shares no
            port with HTTP; of the limits of connections it knows the number of calls on one.
        gzip: Compress the gRPC answers to clients that accept that. Floating-point tensors hardly get smaller.
    """

    data: Literal["h2corn", "grpcio"] = "h2corn"
    gzip: bool = False


class BatchingSettings(Section):
    """How requests are put together.

    Attributes:
        enabled: False: no version is batched, whatever its manifest says.
        max_rows: Most rows in a batch; a manifest may ask for fewer.
        max_delay_ms: How long a free runner waits for a fuller batch, at most half of the time that a request's
            deadline leaves. 0: it takes what is there.
        only_where_it_pays: Batch only sizes that warm-up showed to cost less together than apart.
    """

    enabled: bool = True
    max_rows: Count = 32
    max_delay_ms: Duration = 0.0
    only_where_it_pays: bool = True


class Runtime(Section):
    """How ONNX Runtime sessions are made.

    Attributes:
        providers: What to run on, in order of preference; a load fails if one that you name cannot be used. `auto`:
            CUDA if it works, else the CPU.
        device_ids: Devices of a GPU provider; a version gets one session on each.
        gpus_per_version: How many of these devices a version is loaded on, those with the least memory in use by other
            versions; 0 for all.
        intra_op_threads: Threads that one run may use on the CPU; 0 leaves it to ONNX Runtime.
        runners: Runs of a version at the same time, per device. 0: on the CPU as many as the process has whole cores
            (one, for a control group's quota of 1.5), divided between workers; on a GPU as many as pay.
        optimization_level: How far ONNX Runtime optimises the graph.
        cpu_arena: Keep freed CPU memory for the next run instead of giving it back each time.
        gpu_in_each_worker: With several workers, load versions on a GPU once in each of them. A server with several
            workers does not start on a machine with a GPU that versions may use, unless this is set.
        arena_limit_bytes: Most memory that a version may take on each GPU, weights and tensors of its runs together; 0
            for no bound.
        arena_extend_strategy: Whether an arena grows by doubling, or by what is requested.
        tf32: Let a GPU multiply float32 with ten bits of mantissa (TF32): faster, and less exact.
        tensorrt_cache: Folder on a local disk in which TensorRT keeps the engines that it builds, by version, kind of
            GPU, ONNX Runtime and TensorRT; "" builds them at each load. Nobody else may write to it, since engines are
            code.
        tensorrt_cache_max_bytes: Most bytes of engines in it; those of the versions that were loaded least recently go
            first. 0 for no bound.
        tensorrt_fp16: `golden` lets TensorRT use FP16 for a version if FP16 answers its golden cases as they expect,
            within its tolerances; `off` never does.
        tensorrt_build_timeout_s: How long TensorRT may take to build the engines of a version. After that, as after a
            build that fails, the version is loaded with the next of `providers`, or is Failed if there is none.
        cuda_graphs: `auto` captures the runs of a version on a GPU as CUDA graphs, one for each size of batch (1, 2, 4,
            8, ... rows), where that can be done and its answers are those of plain runs; `off` never does.
        gpu_spin_us: How long an idle runner of a version on a GPU, one at a time, looks for the next request before it
            sleeps: it starts sooner, and uses a core while it looks. It stops looking if requests are too rare.
            0: not at all, as on the CPU.
        inline_threshold_us: A version on the CPU whose run takes less than this runs on the event loop itself when
            nothing waits, since handing it to a thread would cost more; 0 turns that off.
        isolation: `process` runs a version in child processes, which keep a native crash, a hang or a lack of memory
            from the server and cost a copy of its memory each; `thread` in the server's own process; `auto` in child
            processes where the graph has an operator that the values of a request can crash, or make take memory or
            time without a bound.
        processes: Most child processes of a version; 0: as many as it has runners.
        memory_limit_bytes: Most memory that the runs in a child process on the CPU may take beside the loaded model; 0
            for no bound.
        kill_after_s: How long a run in a child process may go on after the last of its requests passed its deadline or
            was cancelled; then the process is ended and started again.
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
    tensorrt_cache_max_bytes: SizeOrNone = ByteSize(20 * 1024 * _MIB)
    tensorrt_fp16: Literal["off", "golden"] = "off"
    tensorrt_build_timeout_s: Annotated[Duration, Field(gt=0, le=86_400)] = 1800.0
    cuda_graphs: Literal["off", "auto"] = "off"
    gpu_spin_us: Annotated[CountOrNone, Field(le=10_000)] = 0
    inline_threshold_us: CountOrNone = 300
    isolation: Literal["auto", "thread", "process"] = "auto"
    processes: Annotated[CountOrNone, Field(le=256)] = 0
    memory_limit_bytes: SizeOrNone = ByteSize(0)
    kill_after_s: Duration = 5.0


class Drain(Section):
    """How the server stops.

    Attributes:
        delay_s: How long requests are still accepted after readiness is turned off, so that load balancers notice; not
            after Ctrl-C.
        timeout_s: How long requests under way have after that to end.
    """

    delay_s: Duration = 5.0
    timeout_s: Annotated[Duration, Field(le=86_400)] = 30.0


class RepositorySettings(Section):
    """How the server follows the model repository and the state store.

    Attributes:
        watch: Pick up what other processes publish.
        poll_interval_s: How often the state store is asked for new releases and tags.
        remote_poll_s: How often an object store or a registry is asked for new versions; one that does not answer is
            asked less often, down to once a minute.
        endpoint_url: Address of an object store or registry that is not where its kind usually is, such as
            `https://minio.example.org`; "" for what the store's own environment variables say. With `http://` nothing
            is encrypted.
        cache: Directory that files of versions in an object store or registry are kept in, on a local disk; several
            servers and commands may share it. "" for `~/.cache/turnout`, or what `XDG_CACHE_HOME` says.
        cache_max_bytes: Most bytes of files in it; the least recently used versions that no server has loaded go first.
        timeout_s: How long an object store or registry may take to answer, or send nothing in the middle of a file.
        max_objects: Most objects under the prefix, or tags of the registry's repository. If there are more, the listing
            is not used.
        oci_settle_s: Longest time that a publisher may take between reading a registry's tag and writing it, and how
            long it then waits before it checks that the tag is still its own. Set the same value for all publishers of
            a repository.
    """

    watch: bool = True
    poll_interval_s: Annotated[Duration, Field(ge=0.01)] = 0.25
    remote_poll_s: Annotated[Duration, Field(ge=0.1, le=3600)] = 10.0
    endpoint_url: HttpUrl = ""
    cache: FilePath = ""
    cache_max_bytes: Size = ByteSize(50 * 1024 * _MIB)
    timeout_s: Annotated[Duration, Field(gt=0, le=600)] = 20.0
    max_objects: Annotated[Count, Field(le=10_000_000)] = 100_000
    oci_settle_s: Annotated[Duration, Field(gt=0, le=60)] = 3.0


class Retention(Section):
    """What is kept, and for how long.

    Attributes:
        releases: How many of a model's latest releases `turnout prune` keeps.
        versions_days: `turnout prune` keeps versions that are younger than this.
        ticks_days: How long servers keep the ticks of ended rollouts; 0 for ever.
        events_days: How long the log keeps events of policies and ended rollouts; 0 for ever. The last event of each
            rollout and the last hundred policies of a model stay, and so do all events of publishing, releases, yanks,
            tags and signatures.
    """

    releases: Count = 3
    versions_days: Annotated[int, Field(ge=0, le=36500)] = 30
    ticks_days: Annotated[int, Field(ge=0, le=36500)] = 90
    events_days: Annotated[int, Field(ge=0, le=36500)] = 730


class Transfers(Section):
    """Publishing and fetching by stream, on the control listener.

    Attributes:
        max_file_bytes: Largest file that an upload may hold.
        max_upload_bytes: Most bytes of one version.
        max_uploads: Most uploads at the same time.
        max_fetches: Most fetches at the same time.
        idle_s: How long a stream may send nothing before it is ended.
        keep_s: How long an interrupted upload is kept, so that its client can go on with it. If as many are open as may
            be, it makes way for another after `idle_s`, and at once for one of a model that has fewer open.
    """

    max_file_bytes: Size = ByteSize(16 * 1024 * _MIB)
    max_upload_bytes: Size = ByteSize(32 * 1024 * _MIB)
    max_uploads: Annotated[Count, Field(le=64)] = 4
    max_fetches: Annotated[Count, Field(le=64)] = 8
    idle_s: Annotated[Duration, Field(gt=0)] = 30.0
    keep_s: Duration = 600.0


class Routing(Section):
    """How requests say where they want to go, beside the version field.

    Attributes:
        key_header: Metadata key or header that carries the routing key, if the request's own field is empty.
        version_override_from: Networks whose callers may force a version with `x-turnout-version`, for testing. None by
            default: the header is refused then.
        yanked_pins: What happens to a pin, digest or tag that names a yanked version: `refuse` it, or `warn` and answer
            as long as the version exists.
    """

    key_header: Annotated[str, Field(pattern=r"^[a-z0-9_.-]{0,60}[a-z0-9_.]$")] = "x-routing-key"
    version_override_from: Networks = ()
    yanked_pins: Literal["refuse", "warn"] = "refuse"


class Signing(Section):
    """Which signatures a version needs to be served.

    Attributes:
        signatures: What happens to a version without a trusted signature: `off` does not check, `warn` publishes and
            loads it with a warning, `require` does neither.
        trusted_keys: Public keys (P-256, P-384, P-521): paths of PEM files, or what `turnout key show` prints.
        trusted_authorities: PEM files of authorities. A signature counts if one of them issued its certificate, for
            signing.
    """

    signatures: Literal["off", "warn", "require"] = "off"
    trusted_keys: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = ()
    trusted_authorities: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = ()


class OutputTolerance(Section):
    """How far an output of a shadow may be from the baseline's: |got - expected| <= atol + rtol * |expected|.

    Attributes:
        atol: Absolute part.
        rtol: Relative part.
    """

    atol: Duration = 0.0
    rtol: Duration = 0.0


class ShadowLane(Section):
    """How copies of requests are run and compared.

    Attributes:
        isolation: `process` runs a shadow in a child process, which costs its memory once more and keeps even a native
            crash from the server; `thread` in the server's process, where it also costs some live p99.
        memory_limit_bytes: Most memory that a shadow may take beside its model: on a GPU for its own arena, with
            `process` for the child; 0 for no bound. In the server's process on a CPU nothing can bound it.
        max_inflight: Most copies that run at the same time.
        max_queue_requests: Most copies that may wait; more are dropped and counted.
        max_queue_bytes: Most bytes of inputs and outputs of copies that wait.
        max_lag_s: How long a copy may wait; then it is dropped and counted.
        timeout_s: How long a run may take; then it is ended.
        noise_rate: Share of the copies that the baseline runs once more, to see its own noise.
        top_k: How many of the best classes are compared, for outputs that are scores.
        keep_worst: How many of the worst disagreements are kept for you to look at, of each pair.
        keep_inputs: Keep the inputs of these disagreements, too.
        redact: `package.module:function` that is given a model's name and the inputs by name before they are kept, and
            returns what may be kept of them.
        tolerances: By output name or by dtype; they override the manifest's.
        scores: By output name: whether the output is scores, whatever its values look like.
    """

    isolation: Literal["process", "thread"] = "process"
    memory_limit_bytes: SizeOrNone = ByteSize(0)
    max_inflight: Annotated[Count, Field(le=2)] = 2
    max_queue_requests: Count = 64
    max_queue_bytes: Size = ByteSize(64 * _MIB)
    max_lag_s: Duration = 5.0
    timeout_s: Annotated[Duration, Field(gt=0)] = 10.0
    noise_rate: Share = 0.02
    top_k: Count = 5
    keep_worst: Annotated[CountOrNone, Field(le=100)] = 20
    keep_inputs: bool = False
    redact: Annotated[str, Field(pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*)?$")] = ""
    tolerances: Mapping[str, OutputTolerance] = Field(default_factory=dict)
    scores: Mapping[str, bool] = Field(default_factory=dict)


class Oip(Section):
    """The Open Inference Protocol, as clients speak it on the data listener and over HTTP.

    Attributes:
        allow_repository_control: Let clients load and unload versions. On the control listener they always may.
        allow_settings_changes: Let clients change the settings of the log and of tracing, until the server ends. On the
            control listener they always may.
        system_shared_memory: Let callers on this machine register regions of POSIX shared memory, which must belong to
            the user that the server runs as; tensors can then lie there instead of in messages.
        max_shared_memory_regions: Most regions that one caller may have registered at the same time.
        max_shared_memory_bytes: Most bytes of all regions of one caller. What the server writes there before the caller
            did counts as the server's memory.
    """

    allow_repository_control: bool = False
    allow_settings_changes: bool = False
    system_shared_memory: bool = False
    max_shared_memory_regions: Annotated[Count, Field(le=256)] = 64
    max_shared_memory_bytes: Size = ByteSize(1024 * _MIB)


class Log(Section):
    """What is logged, to standard error.

    Attributes:
        format: `auto` is `console` on a terminal and `json` elsewhere.
        level: The least severe events that are logged.
        access_sample_rate: Share of successful requests that are logged, 0 to 1; failed ones always are.
    """

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    access_sample_rate: Share = 0.01


class Tracing(Section):
    """Spans of requests, sent to an OpenTelemetry collector; needs the extra `otel`.

    Attributes:
        endpoint: Address of the collector; "" for no tracing. `http/protobuf` adds `/v1/traces` if that is missing.
        protocol: Transport of OTLP.
        headers: Headers to send along, such as an API key.
        service_name: `service.name` of all spans.
        sample_ratio: Share of requests that are traced, of those whose caller has not decided.
        interval_s: How often spans are sent.
        timeout_s: How long one export may take.
        max_queue_spans: Most spans that wait to be sent; more are dropped and counted.
        max_batch_spans: Most spans of one export; it is at most 3 MiB, and the rest waits for the next one.
    """

    endpoint: OtlpEndpoint = ""
    protocol: Literal["http/protobuf", "grpc"] = "http/protobuf"
    headers: Mapping[HeaderName, HeaderValue] = Field(default_factory=dict)
    service_name: Annotated[str, Field(min_length=1, max_length=255)] = "turnout"
    sample_ratio: Share = 0.1
    interval_s: Annotated[Duration, Field(ge=0.05, le=60)] = 1.0
    timeout_s: Annotated[Duration, Field(ge=0.1, le=60)] = 10.0
    max_queue_spans: Annotated[Count, Field(ge=64, le=1_000_000)] = 16384
    max_batch_spans: Annotated[Count, Field(ge=64, le=65536)] = 8192

    @model_validator(mode="after")
    def _no_path_for_grpc(self) -> Self:
        if self.protocol == "grpc" and urlsplit(self.endpoint).path.strip("/"):
            raise ValueError("expected an endpoint without a path, since protocol is grpc")
        return self
