"""Structured logs: JSON lines, or a readable form on a terminal. No payload, no secret, no path of a client.

Failed requests are always logged, answered ones by a sample: at 4,000 requests a second a line each would cost a third
of the serving core.
"""

import logging
import random
import sys
from typing import Any, Literal, Protocol

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from turnout.telemetry.tracing.trace import Trace

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def make_logger(form: Literal["auto", "json", "console"], level: str) -> FilteringBoundLogger:
    """Returns the server's logger, which writes to standard error.

    Args:
        form: `auto` is `console` on a terminal and `json` elsewhere.
        level: The least severe events that are written.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if console:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    else:
        processors += [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    return logger


class Requested(Protocol):
    """What the access log reads of a request."""

    model: str
    selector: str
    request_id: str
    trace: Trace | None


class AccessLog:
    """One line a request: all that failed, a share of those answered."""

    def __init__(self, log: FilteringBoundLogger, sample_rate: float) -> None:
        """Prepares.

        Args:
            log: Where the lines go.
            sample_rate: Share of answered requests that get a line, 0 to 1.
        """
        self._log = log
        self._rate = sample_rate
        self._random = random.Random().random  # noqa: S311 - sampling needs no secrecy

    def sampled(self) -> bool:
        """Tells whether the next answered request gets a line."""
        return self._rate > 0.0 and self._random() < self._rate

    def answered(self, request: Requested, route: Any, took: float, answer: Any) -> None:
        """Logs an answered request; `took` in seconds."""
        self._log.info(
            "request",
            request_id=request.request_id,
            model=request.model,
            selector=request.selector,
            version=str(route.entry.version),
            role=str(route.role),
            code="OK",
            seconds=round(took, 6),
            queue_seconds=round(answer.queue_seconds, 6),
            compute_seconds=round(answer.compute_seconds, 6),
            batch_rows=answer.batch_rows,
            **_ids(request),
        )

    def warned(self, request: Requested, route: Any) -> None:
        """Logs that requests for a selector are answered, and what their callers are warned of."""
        self._log.warning(
            "answered with a warning",
            request_id=request.request_id[:128],
            model=request.model,
            selector=request.selector,
            version=str(route.entry.version),
            role=str(route.role),
            reason=route.warning,
            **_ids(request),
        )

    def failed(self, request: Requested, route: Any, code: str, took: float, error: BaseException) -> None:
        """Logs a request that failed; the cause of a failure inside the server is told here, never to the client."""
        write = self._log.error if code in _SERVER_FAULTS else self._log.warning
        write(
            "request",
            request_id=request.request_id[:128],
            model=request.model[:64],
            selector=request.selector[:256],
            version=str(route.entry.version) if route is not None else "",
            role=str(route.role) if route is not None else "",
            code=code,
            seconds=round(took, 6),
            error=str(error),
            cause=repr(error.__cause__) if error.__cause__ is not None else None,
            **_ids(request),
        )


def _ids(request: Requested) -> dict[str, str]:
    """Returns where in its trace a request stands, if it has one."""
    trace = request.trace
    return {} if trace is None else {"trace_id": trace.trace_id.hex(), "span_id": trace.span_id.hex()}


_SERVER_FAULTS = {"INTERNAL", "DATA_LOSS", "UNKNOWN"}
