"""Queues spans, up to a limit, and sends them to a collector. Requests do not wait for a collector or fail with it."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, MutableMapping
from contextlib import suppress

from structlog.typing import FilteringBoundLogger

from turnout.config import Tracing
from turnout.telemetry.tracing.transport import CollectorResponse, ExportOutcome, ExportTransport

OUTCOMES = ("exported", "dropped", "rejected", "failed")
"""Outcomes of spans: accepted by the collector, dropped because the queue was full, rejected by the collector, or not
delivered."""

_TRIES = 5
_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 15.0

_MAX_BYTES = 3 * 2**20
"""Maximum size of an export. By default, collectors accept 4 MiB over gRPC."""

_CLOSE_SECONDS = 2.0
"""Maximum time that sending the last spans may delay the server's shutdown, in seconds."""


class Exporter:
    """Sends spans to a collector in batches. Used on the event loop only."""

    def __init__(
        self,
        transport: ExportTransport,
        frame: Callable[[bytes], bytes],
        settings: Tracing,
        counts: MutableMapping[str, int],
        log: FilteringBoundLogger,
    ) -> None:
        """Creates the exporter.

        `frame` wraps concatenated spans in an export request; `counts` receives the number of spans by outcome
        (`OUTCOMES`).
        """
        self._transport = transport
        self._frame = frame
        self._settings = settings
        self._counts = counts
        self._log = log
        self._queue: deque[tuple[bytes, int]] = deque()
        self._waiting = 0
        self._full = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._trouble = ""
        counts.update(dict.fromkeys(OUTCOMES, 0))

    def put(self, spans: bytes, count: int) -> None:
        """Queues `count` encoded spans, or drops and counts them if the queue is full."""
        if self._waiting + count > self._settings.max_queue_spans:
            self._counts["dropped"] += count
            return
        self._queue.append((spans, count))
        self._waiting += count
        if self._waiting >= self._settings.max_batch_spans:
            self._full.set()

    def start(self) -> None:
        """Starts the task that sends the spans."""
        self._task = asyncio.create_task(self._run(), name="trace exporter")

    async def close(self) -> None:
        """Sends as many of the queued spans as the time allows, then closes the transport."""
        self._closing.set()
        self._full.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_CLOSE_SECONDS)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._counts["dropped"] += self._waiting
        await self._transport.close()

    async def _run(self) -> None:
        while not self._closing.is_set() or self._queue:
            if self._waiting < self._settings.max_batch_spans and not self._closing.is_set():
                self._full.clear()
                await _first(self._full, self._settings.interval_s)
            if self._queue:
                await self._export(*self._batch())

    def _batch(self) -> tuple[bytes, int]:
        """Removes a batch of spans from the queue: at least those of one request."""
        parts: list[bytes] = []
        total = size = 0
        while self._queue:
            spans, count = self._queue[0]
            if parts and (total + count > self._settings.max_batch_spans or size + len(spans) > _MAX_BYTES):
                break
            self._queue.popleft()
            parts.append(spans)
            total += count
            size += len(spans)
        self._waiting -= total
        return b"".join(parts), total

    async def _export(self, spans: bytes, count: int) -> None:
        body = self._frame(spans)
        for attempt in range(_TRIES):
            verdict = await self._send(body)
            if verdict.outcome is not ExportOutcome.RETRY:
                break
            self._report(verdict.reason)
            if attempt == _TRIES - 1 or self._closing.is_set():
                break
            pause = _FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, not a secret
            await _first(self._closing, min(max(pause, verdict.pause or 0.0), _MAX_PAUSE_SECONDS))
        if verdict.outcome is ExportOutcome.TAKEN:
            rejected = min(verdict.rejected, count)
            self._counts["exported"] += count - rejected
            self._counts["rejected"] += rejected
            self._report(f"it rejects spans: {verdict.reason}" if rejected else "")
        else:
            self._counts["rejected" if verdict.outcome is ExportOutcome.REFUSED else "failed"] += count
            self._report(verdict.reason)

    async def _send(self, body: bytes) -> CollectorResponse:
        try:
            return await self._transport.send(body)
        except Exception as error:  # noqa: BLE001 - a failed export must not stop the server
            self._log.error("an export of spans failed unexpectedly", exc_info=error)
            return CollectorResponse(ExportOutcome.REFUSED, type(error).__name__)

    def _report(self, trouble: str) -> None:
        """Logs a line when exports fail for a new reason, and one when they succeed again."""
        if trouble and trouble != self._trouble:
            self._log.warning("spans are not exported", reason=trouble)
        elif self._trouble and not trouble:
            self._log.info("spans are exported again")
        self._trouble = trouble


async def _first(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
