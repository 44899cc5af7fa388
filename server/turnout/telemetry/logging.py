"""Structured logs: JSON lines, or a readable form on a terminal, without payloads, secrets and paths of clients.

Failed requests are always logged, successful ones are sampled: at 4,000 requests per second, one line for each would
cost a third of the serving core. Every field is limited in length, since its content may come from a client.
"""

import json
import random
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from itertools import islice, takewhile
from typing import Any, Literal

import structlog
from structlog.processors import NAME_TO_LEVEL
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import FilteringBoundLogger, Processor

from turnout.telemetry.log_writer import MAX_LINE_BYTES, LineWriter
from turnout.telemetry.tracing.trace import Requested, Trace

_MAX_FIELD = 1024
"""Maximum length of a field in characters, as written: an escaped character counts as several."""

_MAX_FIELDS_TOGETHER = 6 * 1024
_MEMBER = 8
_SHORT = 64
"""Number of characters of a field that are kept even if the other fields use up the line."""

_MAX_TRACEBACK = 4096
_MAX_FIELDS = 64
_MAX_DEPTH = 6
_MAX_FRAMES = 12

Event = MutableMapping[str, Any]


class Threshold:
    """The minimum level of a log, which can be changed while the server runs.

    Attributes:
        level: The current level. Less severe events are dropped.
        configured: The level in the server's settings.
    """

    def __init__(self, level: str) -> None:
        self.configure(level)

    def configure(self, level: str) -> None:
        """Sets the level from the server's settings."""
        self.configured = level
        self.set(level)

    def set(self, level: str) -> None:
        """Changes the current level."""
        self.level = level
        self._least = NAME_TO_LEVEL[level]

    def __call__(self, _: Any, method: str, event: Event) -> Event:
        """Returns or drops an event, as a structlog processor."""
        if NAME_TO_LEVEL.get(method, NAME_TO_LEVEL["error"]) < self._least:
            raise structlog.DropEvent
        return event


class LogForm:
    """The format of a log's lines, which can be changed while the server runs.

    Attributes:
        name: `json`, or `console` for human-readable lines.
    """

    def __init__(self, form: Literal["auto", "json", "console"]) -> None:
        """Creates the format; `auto` is `console` on a terminal and `json` otherwise."""
        terminal = sys.stderr is not None and _is_terminal(sys.stderr)
        tracebacks = ExceptionDictTransformer(
            show_locals=False, max_frames=_MAX_FRAMES
        )  # local variables may contain client data
        self._forms: Mapping[str, tuple[Processor, Processor]] = {
            "console": (
                structlog.processors.format_exc_info, _printable(structlog.dev.ConsoleRenderer(colors=terminal)),
            ),
            "json": (
                structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer(default=str),
            ),
        }  # fmt: skip
        self.set(("console" if terminal else "json") if form == "auto" else form)

    def set(self, name: str) -> None:
        """Changes the format."""
        self.name = name
        self._exception, self._line = self._forms[name]

    def exception(self, logger: Any, method: str, event: Event) -> Any:
        """Formats the exception of an event, as a structlog processor."""
        return self._exception(logger, method, event)

    def line(self, logger: Any, method: str, event: Event) -> Any:
        """Renders an event as a line, as a structlog processor."""
        return self._line(logger, method, event)


def make_logger(form: Literal["auto", "json", "console"] | LogForm, level: str | Threshold) -> FilteringBoundLogger:
    """Returns the server's logger, which writes to standard error. A fixed level costs less than a `Threshold`."""
    form = form if isinstance(form, LogForm) else LogForm(form)
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        form.exception,
        bounded,
        form.line,
    ]
    if isinstance(level, Threshold):
        processors.insert(0, level)
    logger: FilteringBoundLogger = structlog.wrap_logger(
        _LineLogger(LineWriter(sys.stderr)),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger("debug" if isinstance(level, Threshold) else level),
        cache_logger_on_first_use=True,
    )
    return logger


def _printable(render: Processor) -> Processor:
    """Returns a renderer that first escapes control characters: text from a client must not control a terminal."""

    def line(logger: Any, method: str, event: Event) -> Any:
        texts = {key: _escaped(key, value) for key, value in event.items() if isinstance(value, str)}
        return render(logger, method, {**event, **texts})  # other values are rendered by `repr`, which escapes

    return line


def _escaped(key: str, text: str) -> str:
    if text.isprintable():
        return text
    kept = "\n" if key == "exception" else ""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def bounded(_: object, __: str, event: Event) -> Event:
    """Truncates the fields of an event, each and all together, to the maximum length of a line."""
    traceback = event.get("exception")
    left = _Length(_MAX_FIELDS_TOGETHER)
    cut = {str(key)[:64]: left.bounded(value) for key, value in list(event.items())[:_MAX_FIELDS]}
    if isinstance(traceback, str):
        cut["exception"] = traceback[-_MAX_TRACEBACK:]  # the end of a traceback has the error
    return cut


class _Length:
    def __init__(self, characters: int) -> None:
        self._left = characters

    def bounded(self, value: Any, depth: int = 0) -> Any:
        self._left -= _MEMBER
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return value if -(2**63) <= value < 2**64 else "a number beyond 64 bits"
        if isinstance(value, str):
            return self._cut(value, 0 if depth else _SHORT)
        if isinstance(value, bytes | bytearray | memoryview):
            return f"{len(value)} bytes"
        if depth < _MAX_DEPTH and isinstance(value, Mapping):
            pairs = islice(takewhile(lambda _: self._left > 0, value.items()), _MAX_FIELDS)
            return {self._cut(str(k), 0)[:64]: self.bounded(v, depth + 1) for k, v in pairs}
        if depth < _MAX_DEPTH and isinstance(value, Sequence):
            return [self.bounded(v, depth + 1) for v in takewhile(lambda _: self._left > 0, value[:_MAX_FIELDS])]
        return self._cut(f"{type(value).__name__}" if isinstance(value, Mapping | Sequence) else str(value), _SHORT)

    def _cut(self, text: str, at_least: int) -> str:
        """Returns `text`, or its beginning with a note of its length."""
        most = max(min(_MAX_FIELD, self._left), at_least)
        if len(text) > most or _written(text) > most:
            kept = text[:most]
            while _written(kept) > most:
                kept = kept[: len(kept) // 2]
            text = f"{kept}... ({len(text)} characters)"
        self._left -= _written(text)
        return text


def _written(text: str) -> int:
    """Returns the length of `text` in JSON, where a non-ASCII character takes up to 12 characters."""
    if text.isascii() and text.isprintable():
        return len(text) + text.count("\\") + text.count('"')
    return sum(1 if " " <= c <= "~" else 6 if c <= "\uffff" else 12 for c in text)


def _bounded_line(line: str) -> str:
    """Returns `line`, or a shorter replacement if its fields together exceed the maximum length."""
    if len(line) <= MAX_LINE_BYTES // 4 or len(line.encode(errors="backslashreplace")) <= MAX_LINE_BYTES:
        return line
    shortened = {"event": "a log line was too long", "level": "warning", "beginning": line[: MAX_LINE_BYTES // 16]}
    return json.dumps(shortened)


class _LineLogger:
    """The final logger, which gets rendered lines, limits their length and writes them."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, message: str) -> None:
        self._writer.write(_bounded_line(message))

    log = debug = info = warn = warning = error = err = fatal = critical = failure = exception = msg


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (OSError, ValueError):
        return False


class AccessLog:
    """Logs every failed request and a sample of the successful ones."""

    def __init__(self, log: FilteringBoundLogger, sample_rate: float) -> None:
        """Creates the log, with the share of the successful requests that are logged, 0 to 1."""
        self._log = log
        self._rate = sample_rate
        self._random = random.Random().random  # noqa: S311 - sampling, not a secret

    def sampled(self) -> bool:
        """Returns whether to log the next successful request."""
        return self._rate > 0.0 and self._random() < self._rate

    def answered(self, request: Requested, route: Any, took: float, answer: Any, trace: Trace | None) -> None:
        """Logs a successful request that took `took` seconds."""
        self._log.info(
            "request",
            request_id=request.request_id,
            **_names(request, route),
            code="OK",
            seconds=round(took, 6),
            queue_seconds=round(answer.queue_seconds, 6),
            compute_seconds=round(answer.compute_seconds, 6),
            batch_rows=answer.batch_rows,
            **_ids(trace),
        )

    def warned(self, request: Requested, route: Any, trace: Trace | None) -> None:
        """Logs that a request was answered with a warning."""
        known = {"request_id": request.request_id[:128], **_names(request, route)}
        self._log.warning("answered with a warning", **known, reason=route.warning, **_ids(trace))

    def failed(
        self, request: Requested, route: Any, code: str, took: float, error: BaseException, trace: Trace | None
    ) -> None:
        """Logs a failed request. The cause of an internal error is logged here and never sent to the client."""
        write = self._log.error if code in _SERVER_FAULTS else self._log.warning
        known = {"request_id": request.request_id[:128], **_names(request, route)}
        seconds, text, cause = round(took, 6), str(error), _cause(error)
        write("request", **known, code=code, seconds=seconds, error=text, cause=cause, **_ids(trace))

    def unexpected(self, request: Requested, error: BaseException, trace: Trace | None) -> None:
        """Logs an unexpected error, with its traceback."""
        known = {"request_id": request.request_id[:128], **_asked(request)}
        self._log.error("unexpected error", **known, exc_info=error, **_ids(trace))


def _asked(request: Requested) -> dict[str, str]:
    """Returns what a request asked for, limited to the lengths of the longest valid name and selector."""
    return {"model": request.model[:128], "selector": request.selector[:256]}


def _names(request: Requested, route: Any) -> dict[str, str]:
    """Returns what a request asked for, and what it got; `route` is None if it got nothing."""
    version, role = ("", "") if route is None else (str(route.entry.version), str(route.role))
    return {**_asked(request), "version": version, "role": role}


def _cause(error: BaseException) -> str | None:
    """Returns the cause of an error as text. It may be very long; it is truncated when it is written."""
    return None if error.__cause__ is None else f"{type(error.__cause__).__name__}: {error.__cause__}"


def _ids(trace: Trace | None) -> dict[str, str]:
    """Returns the trace and span ids of a request; empty if it is not traced."""
    return {} if trace is None else {"trace_id": trace.trace_id.hex(), "span_id": trace.span_id.hex()}


_SERVER_FAULTS = {"INTERNAL", "DATA_LOSS", "UNKNOWN"}
