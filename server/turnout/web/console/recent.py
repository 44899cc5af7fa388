"""Keeps the activity of the last hour in memory, so that the console's charts do not need Prometheus."""

import asyncio
import json
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from turnout.serving.versions.catalog import Catalog
from turnout.telemetry.histogram import LATENCY_BOUNDS, quantile
from turnout.telemetry.metrics.versions import VersionRecorder
from turnout.workers.peers import Peers

SAMPLE_SECONDS = 10.0
_SAMPLES = 360
_LEAST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ActivityPoint:
    """The activity of a version between two samples.

    Attributes:
        time: Time of the later sample, in seconds since 1970.
        rate: Requests per second.
        failures: Requests per second that did not end with OK.
        p50, p99: Latency quantiles in milliseconds; None if there were no requests.
    """

    time: float
    rate: float
    failures: float
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class _VersionCounts:
    """The counts of a version, summed over the recorders of all workers that have it."""

    recorders: tuple[str, ...]  # their ids: a recorder that was replaced starts again at 0
    monotonic: float  # when the counts were read, in seconds
    requests: int
    failed: int
    latency: Sequence[int]  # requests in each bucket


_Key = tuple[str, str]
_COUNTS, _HOUR = "counts", "hour"
"""Topics of requests between workers."""


class Recent:
    """Keeps an hour of activity points for each loaded version. Used on the event loop only."""

    def __init__(self, catalog: Catalog, peers: Peers | None = None) -> None:
        """Creates an empty history. The first points appear after the second `sample`."""
        self._catalog = catalog
        self._peers = peers
        if peers is not None:
            peers.answers(_COUNTS, self._answer_peer)
            peers.answers(_HOUR, self._answer_hour)
        self._before: dict[_Key, _VersionCounts] = {}
        self._points: dict[_Key, deque[ActivityPoint]] = {}
        self._names: dict[_Key, tuple[VersionRecorder, str]] = {}

    async def run(self) -> None:
        """Takes samples until it is cancelled."""
        await self.catch_up()
        while True:
            await self.sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    async def catch_up(self) -> None:
        """Copies the last hour from the other workers, in case this one was started later."""
        replies = {} if self._peers is None else await self._peers.ask(_HOUR)
        for hour in replies.values():
            for model, version, points in json.loads(hour):
                known = self._points.get((model, version), ())
                if len(points) > len(known):
                    self._points[model, version] = deque((ActivityPoint(*point) for point in points), maxlen=_SAMPLES)

    async def sample(self) -> None:
        """Samples all loaded versions, and removes versions that have been unloaded for an hour."""
        counted = [self._counted()]
        if self._peers is not None:
            replies = await self._peers.ask(_COUNTS)
            counted += [_unpacked(replies[worker]) for worker in sorted(replies)]
        now, wall = time.monotonic(), time.time()
        for key in dict.fromkeys(key for one in counted for key in one):
            counts = _summed([one[key] for one in counted if key in one], now)
            before = self._before.get(key)
            if before is not None and now - before.monotonic < _LEAST_SECONDS:
                continue
            self._before[key] = counts
            if before is not None and before.recorders == counts.recorders:
                self._points.setdefault(key, deque(maxlen=_SAMPLES)).append(_point(before, counts, wall))
        for key, points in list(self._points.items()):  # drop expired points, and versions without points
            while points and wall - points[0].time > SAMPLE_SECONDS * _SAMPLES:
                points.popleft()
            if not points:
                del self._points[key]
                self._before.pop(key, None)
                self._names.pop(key, None)

    def of(self, model: str) -> Mapping[str, Sequence[ActivityPoint]]:
        """Returns the points of each of a model's versions, oldest first."""
        return {version: list(points) for (name, version), points in self._points.items() if name == model}

    async def _answer_peer(self, _: bytes) -> bytes:
        return json.dumps([[*key, *counts] for key, counts in self._counted().items()]).encode()

    async def _answer_hour(self, _: bytes) -> bytes:
        return json.dumps(
            [[*key, [astuple(point) for point in points]] for key, points in self._points.items()]
        ).encode()

    def _counted(self) -> "Mapping[_Key, _Own]":
        found: dict[_Key, _Own] = {}
        for model in self._catalog.snapshot.models.values():
            for entry in model.versions.values():
                if entry.handle is None:
                    continue
                key, recorder = (model.name, entry.version_text), entry.handle.recorder
                if key not in self._names or self._names[key][0] is not recorder:
                    self._names[key] = recorder, uuid.uuid4().hex
                found[key] = self._names[key][1], *_own(recorder)
        return found


_Own = tuple[str, int, int, list[int]]
"""A recorder's id, and its numbers of requests, of failures, and of requests in each latency bucket."""


def _own(recorder: VersionRecorder) -> tuple[int, int, list[int]]:
    requests = failed = 0
    latency = [0] * (len(LATENCY_BOUNDS) + 1)
    for role in list(recorder.roles.values()):
        requests += sum(role.codes.values())
        failed += sum(count for code, count in role.codes.items() if code != "OK")
        latency = [a + b for a, b in zip(latency, role.duration.counts, strict=True)]
    return requests, failed, latency


def _unpacked(replies: bytes) -> Mapping[_Key, _Own]:
    return {(model, version): (name, *counts) for model, version, name, *counts in json.loads(replies)}


def _summed(several: Sequence[_Own], now: float) -> _VersionCounts:
    names, requests, failed, latency = zip(*several, strict=True)
    return _VersionCounts(
        names, now, sum(requests), sum(failed), [sum(bucket) for bucket in zip(*latency, strict=True)]
    )


def _point(before: _VersionCounts, after: _VersionCounts, wall: float) -> ActivityPoint:
    seconds = after.monotonic - before.monotonic
    latency = [b - a for a, b in zip(before.latency, after.latency, strict=True)]
    p50, p99 = quantile(LATENCY_BOUNDS, latency, 0.5), quantile(LATENCY_BOUNDS, latency, 0.99)
    return ActivityPoint(
        wall,
        (after.requests - before.requests) / seconds,
        (after.failed - before.failed) / seconds,
        None if p50 is None else p50 * 1e3,
        None if p99 is None else p99 * 1e3,
    )
