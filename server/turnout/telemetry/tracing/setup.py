"""Sets up tracing. If tracing is off, no OpenTelemetry package is imported."""

import os
import platform
import uuid
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager

from structlog.typing import FilteringBoundLogger

from turnout import __version__
from turnout.config import Tracing
from turnout.errors import ConfigError
from turnout.telemetry.tracing.spans import Attributes
from turnout.telemetry.tracing.trace import ShadowCopy, Trace
from turnout.telemetry.tracing.tracer import Tracer

_SCOPE = "turnout"


@asynccontextmanager
async def tracing(
    settings: Tracing, counts: MutableMapping[str, int], log: FilteringBoundLogger
) -> AsyncIterator[Tracer | None]:
    """Yields the tracer, or None if tracing is off. Queued spans are sent on exit.

    `counts` receives the number of spans by outcome. It is not changed if tracing is off.

    Raises:
        ConfigError: Tracing is on, but the extra `otel` is not installed.
    """
    if not settings.endpoint:
        yield None
        return
    try:
        from turnout.telemetry.tracing import otlp
        from turnout.telemetry.tracing.exporter import Exporter
        from turnout.telemetry.tracing.transport import make_transport
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise ConfigError("tracing.endpoint is set, and tracing needs an extra: pip install 'turnout[otel]'") from None
    beginnings = otlp.encode_resource(_resource(settings), _SCOPE, __version__)
    exporter = Exporter(
        make_transport(settings), lambda spans: otlp.encode_export(beginnings, spans), settings, counts, log
    )

    def write_requests(traces: Sequence[Trace]) -> None:
        for trace in traces:
            trace.exemplify()
            exporter.put(*otlp.encode_request(trace, tracer.new_span_ids))

    def write_copy(copy: ShadowCopy) -> None:
        exporter.put(otlp.encode_copy(copy, tracer.new_trace_id(), tracer.new_span_id()), 1)

    tracer = Tracer(settings.sample_ratio, write_requests, write_copy)
    exporter.start()
    try:
        yield tracer
    finally:
        tracer.flush()
        await exporter.close()


def _resource(settings: Tracing) -> Attributes:
    return (
        ("service.name", settings.service_name),
        ("service.version", __version__),
        ("service.instance.id", str(uuid.uuid4())),
        ("host.name", platform.node()),
        ("process.pid", os.getpid()),
        ("telemetry.sdk.name", "turnout"),
        ("telemetry.sdk.language", "python"),
        ("telemetry.sdk.version", __version__),
    )
