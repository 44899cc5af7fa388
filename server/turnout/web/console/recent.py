"""The last hour of every version, in memory: what the console's charts draw where there is no Prometheus."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from turnout.serving.catalog import Catalog
from turnout.telemetry.histogram import LATENCY_BOUNDS, quantile
from turnout.telemetry.metrics import VersionRecorder

SAMPLE_SECONDS = 10.0
_SAMPLES = 360
_LEAST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Point:
    """What a version did between two samples.

    Attributes:
        time: Of the later sample, seconds since 1970.
        rate: Requests a second.
        failures: Requests a second that did not end with OK.
        p50, p99: Latency in milliseconds; None where nothing was answered.
    """

    time: float
    rate: float
    failures: float
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class _Counts:
    recorder: VersionRecorder
    monotonic: float
    requests: int
    failed: int
    latency: Sequence[int]


class Recent:
    """Keeps an hour of points of each version in service. Used on the event loop only."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._before: dict[tuple[str, str], _Counts] = {}
        self._points: dict[tuple[str, str], deque[Point]] = {}

    async def run(self) -> None:
        """Samples for as long as the server runs."""
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    def sample(self) -> None:
        """Takes one sample of every version that is loaded; forgets those that have been gone for an hour."""
        now, wall = time.monotonic(), time.time()
        for key, recorder in self._recorders():
            counts = _counted(recorder, now)
            before = self._before.get(key)
            if before is not None and now - before.monotonic < _LEAST_SECONDS:
                continue
            self._before[key] = counts
            if before is not None and before.recorder is recorder:  # another one has counted from 0 since its load
                self._points.setdefault(key, deque(maxlen=_SAMPLES)).append(_point(before, counts, wall))
        for key, points in list(self._points.items()):  # what was unloaded leaves gaps, and then nothing
            while points and wall - points[0].time > SAMPLE_SECONDS * _SAMPLES:
                points.popleft()
            if not points:
                del self._points[key]
                self._before.pop(key, None)

    def of(self, model: str) -> Mapping[str, Sequence[Point]]:
        """Returns the points of a model's versions, the oldest first."""
        return {version: list(points) for (name, version), points in self._points.items() if name == model}

    def _recorders(self) -> Iterator[tuple[tuple[str, str], VersionRecorder]]:
        for model in self._catalog.snapshot.models.values():
            for entry in model.versions.values():
                if entry.handle is not None:
                    yield (model.name, entry.version_text), entry.handle.recorder


def _counted(recorder: VersionRecorder, now: float) -> _Counts:
    requests = failed = 0
    latency = [0] * (len(LATENCY_BOUNDS) + 1)
    for role in list(recorder.roles.values()):
        requests += sum(role.codes.values())
        failed += sum(count for code, count in role.codes.items() if code != "OK")
        latency = [a + b for a, b in zip(latency, role.duration.counts, strict=True)]
    return _Counts(recorder, now, requests, failed, latency)


def _point(before: _Counts, after: _Counts, wall: float) -> Point:
    seconds = after.monotonic - before.monotonic
    latency = [b - a for a, b in zip(before.latency, after.latency, strict=True)]
    p50, p99 = quantile(LATENCY_BOUNDS, latency, 0.5), quantile(LATENCY_BOUNDS, latency, 0.99)
    return Point(
        wall,
        (after.requests - before.requests) / seconds,
        (after.failed - before.failed) / seconds,
        None if p50 is None else p50 * 1e3,
        None if p99 is None else p99 * 1e3,
    )
