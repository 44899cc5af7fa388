"""Tables of the configuration file, as frozen models with their defaults.

Names of durations end in `_s`, `_ms` or `_us`, names of sizes in `_bytes`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ByteSize, ConfigDict, Field, SecretStr, model_validator

from turnout.config.values import (
    Count,
    CountOrNone,
    Duration,
    FilePath,
    HeaderName,
    HeaderValue,
    HostNames,
    HttpUrl,
    Networks,
    OtlpEndpoint,
    Share,
    Size,
    SizeOrNone,
    Token,
)

_MIB = 1024 * 1024


class Section(BaseModel):
    """Base class of all tables. It is frozen and rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class QueueLimits(Section):
    """Limits of one version's queue. Requests beyond them are rejected at once, with RESOURCE_EXHAUSTED.

    Attributes:
        max_queue_requests: Maximum number of requests that wait for a runner.
        max_queue_bytes: Maximum size of the inputs that wait for a runner.
    """

    max_queue_requests: Count = 512
    max_queue_bytes: Size = ByteSize(256 * _MIB)


class Limits(QueueLimits):
    """Limits on what clients may send. The limits of queues apply to each version, and can also be set per model.

    A request beyond one of the limits on its content is rejected with INVALID_ARGUMENT before it is processed.

    Attributes:
        max_message_bytes: Maximum size of a gRPC message, in either direction.
        max_stream_items: Maximum number of concurrent requests on one PredictStream. At the limit, or while more
            than 4 MiB of answers wait for the client to read them, the server stops reading from the stream.
        http_max_body_bytes: Maximum size of the body of an HTTP request, decompressed.
        http_max_json_bytes: Maximum size of the JSON in an HTTP request. Larger tensors need the binary extension or
            gRPC.
        max_tensors: Maximum number of inputs in a request, and of outputs that it requests by name.
        max_rank: Maximum number of dimensions of a tensor.
        max_name_bytes: Maximum length of the name of a model, version, input or output.
        max_elements: Maximum number of elements in a request that are encoded one by one, in JSON or typed contents.
            Raw tensors are limited only by the size of the message.
        max_strings: Maximum number of strings in a request.
        max_requests: Maximum number of concurrent requests in the whole server, gRPC and HTTP together. Further
            requests are rejected with RESOURCE_EXHAUSTED (429). Health checks, probes and scrapes are always accepted.
        max_unfinished_bytes: Maximum size of all partially received requests together.
        max_unsent_bytes: Maximum size of all answers above 64 KiB together that clients have not read. One connection
            may hold at most as much of it as is left for all others. Further answers are discarded, and their requests
            fail with RESOURCE_EXHAUSTED (429).
        max_connections: Maximum number of connections of a listener. Further connections wait. The limit is never
            higher than the process's limit on open files, less a reserve.
        max_streams: Maximum number of concurrent calls on one connection. Clients know this limit and do not open more.
        max_header_bytes: Maximum size of a request's headers, including the request line.
        max_headers: Maximum number of headers in a request.
        header_timeout_s: Time limit for a new connection to identify its protocol, and for a request to send all of its
            headers.
        body_timeout_s: How long a request whose body is incomplete may go without sending data. The time between
            messages of a stream is not limited. 0 for no limit.
        stall_timeout_s: How long a client may go without reading any of a response. 0 for no limit.
        idle_timeout_s: How long a connection without a request stays open. 0 for no limit. An HTTP/1.1 connection also
            closes if no request follows within `header_timeout_s`.
        max_connection_age_s: Age at which a listener asks clients to reconnect (GOAWAY), so that load balancers can
            redistribute them. Pending calls then have `drain.timeout_s` to finish. 0 for never.
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
    max_unsent_bytes: Size = ByteSize(512 * _MIB)
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
    """The transport of the data listener.

    Attributes:
        data: Server implementation of the data listener: `h2corn`, or gRPC's own `grpcio`, which is four times slower
            and cannot share a port with HTTP. Of the limits on connections, `grpcio` lacks `limits.max_connections`,
            `max_headers`, `body_timeout_s`, `stall_timeout_s` and `max_unfinished_bytes`.
        gzip: Compress gRPC responses for clients that accept it. Floating-point tensors hardly shrink.
    """

    data: Literal["h2corn", "grpcio"] = "h2corn"
    gzip: bool = False


class Drain(Section):
    """How the server shuts down.

    Attributes:
        delay_s: How long the server still accepts requests after it reports that it is not ready, so that load
            balancers notice. It does not apply to Ctrl-C.
        timeout_s: How long pending requests then have to finish.
    """

    delay_s: Duration = 5.0
    timeout_s: Annotated[Duration, Field(le=86_400)] = 30.0


class RepositorySettings(Section):
    """How the server follows the model repository and the state store.

    Attributes:
        watch: Whether to notice versions that other processes publish.
        poll_interval_s: How often the state store is checked for new releases and tags.
        remote_poll_s: How often an object store or registry is checked for new versions. If it does not respond, it is
            checked less often, down to once a minute.
        endpoint_url: Endpoint of the object store or registry if it is not the default one, such as
            `https://minio.example.org`; "" for the endpoint in the store's own environment variables, if any. With
            `http://` the connection is not encrypted.
        cache: Directory on a local disk in which files from an object store or registry are cached. Several servers and
            commands can share it. "" for `turnout` in `XDG_CACHE_HOME`, or `~/.cache/turnout`.
        cache_max_bytes: Maximum size of that cache. The least recently used versions that no server has loaded are
            removed first.
        timeout_s: How long an object store or registry may take to respond, or pause in the middle of a file.
        max_objects: Maximum number of objects under the prefix, or of tags in the registry's repository. If there are
            more, the listing is not used.
        oci_settle_s: Maximum time for a publisher between reading and writing a registry's tag. It then waits for the
            same time before it checks that the tag is still its own. Set the same value for all publishers of a
            repository.
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
    """How long versions, ticks and events are kept.

    Attributes:
        releases: Number of a model's latest releases that `turnout prune` keeps.
        versions_days: `turnout prune` keeps versions that are younger than this, in days.
        ticks_days: How long the ticks of ended rollouts are kept, in days; 0 for ever.
        events_days: How long events of policies and ended rollouts are kept in the log, in days; 0 for ever. The last
            event of each rollout, the last hundred policies of a model, and all events of publishing, releases, yanks,
            tags and signatures are never removed.
    """

    releases: Count = 3
    versions_days: Annotated[int, Field(ge=0, le=36500)] = 30
    ticks_days: Annotated[int, Field(ge=0, le=36500)] = 90
    events_days: Annotated[int, Field(ge=0, le=36500)] = 730


class Transfers(Section):
    """Publishing and fetching versions over the control listener.

    Attributes:
        max_file_bytes: Maximum size of a file in an upload.
        max_upload_bytes: Maximum size of an uploaded version.
        max_uploads: Maximum number of concurrent uploads.
        max_fetches: Maximum number of concurrent fetches.
        idle_s: How long a stream may go without sending data before it is closed.
        keep_s: How long an interrupted upload is kept, so that its client can resume it. When `max_uploads` are open,
            an interrupted one gives way to a new one after `idle_s`, and at once if the new one's model has fewer open.
    """

    max_file_bytes: Size = ByteSize(16 * 1024 * _MIB)
    max_upload_bytes: Size = ByteSize(32 * 1024 * _MIB)
    max_uploads: Annotated[Count, Field(le=64)] = 4
    max_fetches: Annotated[Count, Field(le=64)] = 8
    idle_s: Annotated[Duration, Field(gt=0)] = 30.0
    keep_s: Duration = 600.0


class Routing(Section):
    """How requests select a version by means other than the version field, and what pins of yanked versions get.

    Attributes:
        key_header: Name of the metadata key or header with the routing key. It is used if the request's own field is
            empty.
        version_override_from: Networks whose callers may force a version with `x-turnout-version`, for testing. If this
            is empty, requests with the header are rejected.
        yanked_pins: What happens to a request that selects a yanked version by number, digest or tag: `refuse` rejects
            it; `warn` answers it with a warning for as long as the version exists.
    """

    key_header: Annotated[str, Field(pattern=r"^[a-z0-9_.-]{0,60}[a-z0-9_.]$")] = "x-routing-key"
    version_override_from: Networks = ()
    yanked_pins: Literal["refuse", "warn"] = "refuse"


class Signing(Section):
    """Signatures that versions need, and the keys and authorities that are trusted.

    Attributes:
        signatures: What happens to a version without a trusted signature: `off` does not check signatures; `warn`
            publishes and loads the version with a warning; `require` neither publishes nor loads it.
        trusted_keys: Trusted public keys (P-256, P-384, P-521): paths of PEM files, or keys as `turnout key show`
            prints them.
        trusted_authorities: PEM files with the certificates of trusted authorities. A signature is trusted if one of
            them issued its certificate for signing.
    """

    signatures: Literal["off", "warn", "require"] = "off"
    trusted_keys: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = ()
    trusted_authorities: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = ()


class OutputTolerance(Section):
    """How much a shadow's output may differ from the baseline's: |got - expected| <= atol + rtol * |expected|.

    Attributes:
        atol: Absolute tolerance.
        rtol: Relative tolerance.
    """

    atol: Duration = 0.0
    rtol: Duration = 0.0


class ShadowLane(Section):
    """How shadows run copies of requests, and how their answers are compared.

    Attributes:
        isolation: `process` runs a shadow in a child process, which needs another copy of the model in memory but
            protects the server even from a native crash; `thread` runs it in the server's process, which also raises
            the p99 latency of live requests somewhat.
        memory_limit_bytes: Maximum memory of a shadow in addition to its model: of its own arena on a GPU, and of the
            child process with `process`; 0 for no limit. In the server's process on a CPU it cannot be limited.
        max_inflight: Maximum number of copies that run at the same time.
        max_queue_requests: Maximum number of copies that wait. Further copies are dropped and counted.
        max_queue_bytes: Maximum size of the inputs and outputs of the copies that wait.
        max_lag_s: How long a copy may wait before it is dropped and counted.
        timeout_s: Time limit of a run.
        noise_rate: Share of the copies that the baseline runs a second time, to measure its own noise.
        top_k: Number of top classes that are compared, for outputs that are scores.
        keep_worst: Number of worst disagreements that are kept for inspection, for each pair of versions.
        keep_inputs: Whether to keep the inputs of these disagreements as well: at most 32 MiB of them for each pair
            of versions, those of the worst first.
        redact: A function, as `package.module:function`, that removes sensitive data from inputs before they are kept.
            It gets the model's name and the inputs by name, and returns the inputs to keep.
        tolerances: Tolerances by output name or dtype. They override the manifest's.
        scores: Whether an output is scores, by output name. It overrides the detection from the output's values.
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
    """What clients may do with the Open Inference Protocol on the data listener and over HTTP.

    Attributes:
        allow_repository_control: Allow clients to load and unload versions. On the control listener this is always
            allowed.
        allow_settings_changes: Allow clients to change the log and trace settings until the server stops. On the
            control listener this is always allowed.
        system_shared_memory: Allow callers on this machine to pass tensors in POSIX shared memory instead of in
            messages. The regions that they register must belong to the user that the server runs as.
        max_shared_memory_regions: Maximum number of regions that one caller may have registered at the same time.
        max_shared_memory_bytes: Maximum total size of the regions of one caller. Pages that the server writes before
            the caller has written them count as the server's memory.
    """

    allow_repository_control: bool = False
    allow_settings_changes: bool = False
    system_shared_memory: bool = False
    max_shared_memory_regions: Annotated[Count, Field(le=256)] = 64
    max_shared_memory_bytes: Size = ByteSize(1024 * _MIB)


class WebSettings(Section):
    """Protection of the HTTP listener against requests that a browser sends on behalf of other sites.

    Attributes:
        hosts: Host names of the server. A request with another name in its Host header is rejected, because the owner
            of that name could make a browser treat this server as their own site (DNS rebinding). IP addresses and
            localhost are always accepted. If this is empty, a loopback listener accepts only localhost, and other
            listeners accept any name.
    """

    hosts: HostNames = ()


class Console(Section):
    """The console, on the HTTP listener.

    Attributes:
        enabled: Whether to serve the console.
        token: Token for pausing, promoting and aborting rollouts in the console, at least 16 characters. "" makes the
            console read-only, except for callers to whom `[auth]` grants more.
        token_file: Path of a file with the token, instead of `token`.
    """

    enabled: bool = True
    token: Token = SecretStr("")
    token_file: FilePath = ""


class Log(Section):
    """The log, which is written to standard error.

    Attributes:
        format: Format of the log. `auto` is `console` on a terminal and `json` otherwise.
        level: Minimum severity of the events that are logged.
        access_sample_rate: Share of the successful requests that are logged, 0 to 1. Failed requests are always logged.
    """

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    access_sample_rate: Share = 0.01


class Tracing(Section):
    """Tracing of requests. Spans are sent to an OpenTelemetry collector; this needs the extra `otel`.

    Attributes:
        endpoint: URL of the collector; "" for no tracing. With `http/protobuf`, `/v1/traces` is added if it is missing.
        protocol: OTLP transport.
        headers: Headers to send with each export, such as an API key.
        service_name: The `service.name` of all spans.
        sample_ratio: Share of requests that are traced, among those for which the caller has not made a sampling
            decision.
        interval_s: How often spans are exported.
        timeout_s: Time limit of one export.
        max_queue_spans: Maximum number of spans that wait for export. Further spans are dropped and counted.
        max_batch_spans: Maximum number of spans in one export. An export is at most 3 MiB; the remaining spans are sent
            with the next one.
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
