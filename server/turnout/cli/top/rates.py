"""Computes rates and latencies from two readings of a server's counters, without side effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from turnout.telemetry.histogram import quantile
from turnout_proto.v1 import activity_pb2 as pb
from turnout_proto.v1.catalog_pb2 import Standing, VersionState
from turnout_proto.v1.rollout_pb2 import Rollout

SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class TrafficPart:
    """A version's share of its model's traffic in one role.

    Attributes:
        role: `pinned`, `baseline`, `canary` or `shadow`.
        weight: Share of the unpinned traffic, 0 to 1; for a shadow, the share of requests that are copied.
        rate: Requests per second in this role; None if unknown.
    """

    role: str
    weight: float
    rate: float | None


@dataclass(frozen=True, slots=True)
class ActivityRow:
    """A version's activity between two readings. Rates and latencies are None if unknown.

    Attributes:
        rate: Requests per second in all roles.
        failures: Requests per second with a status other than OK.
        p50, p99: Latency from arrival to answer in seconds.
        inflight: Number of requests admitted and not yet answered.
        queue_depth: Number of requests waiting for a runner.
        queue_fill: Fill level of the fullest queue, 0 to 1.
    """

    model: str
    version: str
    state: str
    release_status: str
    parts: Sequence[TrafficPart]
    rate: float | None
    failures: float | None
    p50: float | None
    p99: float | None
    inflight: int
    queue_depth: int
    queue_fill: float

    @property
    def failed_share(self) -> float | None:
        """Share of the requests with a status other than OK; None if there were no requests."""
        return self.failures / self.rate if self.rate and self.failures is not None else None


@dataclass(frozen=True, slots=True)
class Picture:
    """A server's activity between two readings.

    Attributes:
        rows: Versions, busiest first, those that are not ready last.
        seconds: Time between the readings in seconds; 0 if there is only one reading of this process.
        up: Seconds since the process started counting.
        unrouted: Requests per second that reached no version; None if unknown.
        draining: Whether the server has stopped accepting requests.
    """

    rows: Sequence[ActivityRow]
    rollouts: Sequence[Rollout]
    seconds: float
    up: float
    unrouted: float | None
    draining: bool

    @property
    def rate(self) -> float | None:
        """Requests per second that reached a version; None if unknown."""
        return sum(row.rate or 0.0 for row in self.rows) if self.seconds else None

    @property
    def failures(self) -> float | None:
        """Those of them with a status other than OK, per second; None if unknown."""
        return sum(row.failures or 0.0 for row in self.rows) if self.seconds else None


def picture(before: pb.GetActivityResponse | None, after: pb.GetActivityResponse) -> Picture:
    """Returns a server's activity between two readings, without rates unless both are of the same process."""
    if before is not None and (before.process != after.process or after.seconds <= before.seconds):
        before = None
    seconds = after.seconds - before.seconds if before is not None else 0.0
    known = {(v.model, v.version): v for v in before.versions} if before is not None else {}
    rows = [_row(known.get((v.model, v.version)), v, after.latency_bounds, seconds) for v in after.versions]
    return Picture(
        sorted(rows, key=lambda row: (row.state != "ready", -(row.rate or 0.0), row.model)),  # stable: else as received
        list(after.rollouts),
        seconds,
        after.seconds,
        (after.unrouted - before.unrouted) / seconds if before is not None else None,
        after.draining,
    )


def _row(
    before: pb.VersionActivity | None, after: pb.VersionActivity, bounds: Sequence[float], seconds: float
) -> ActivityRow:
    counts = {role.role: role for role in before.roles} if before is not None else {}
    added = [_added(counts.get(role.role), role) for role in after.roles]
    latency = [sum(column) for column in zip(*(a.latency for a in added if a.latency), strict=True)]
    state = VersionState.Name(after.state).removeprefix("VERSION_STATE_").lower()
    counted = bool(seconds) and (state == "ready" or bool(after.roles))

    def rate(number: int) -> float | None:
        return number / seconds if counted else None

    return ActivityRow(
        after.model,
        after.version,
        state,
        Standing.Name(after.standing).removeprefix("STANDING_").lower(),
        [
            TrafficPart(role.role, role.weight, None if role.role == SHADOW else rate(new.requests))
            for role, new in zip(after.roles, added, strict=True)
        ],
        rate(sum(a.requests for a in added)),
        rate(sum(a.failures for a in added)),
        quantile(bounds, latency, 0.5) if counted else None,
        quantile(bounds, latency, 0.99) if counted else None,
        after.inflight,
        after.queue_depth,
        after.queue_fill,
    )


@dataclass(frozen=True, slots=True)
class _PictureCounts:
    requests: int
    failures: int
    latency: Sequence[int]


def _added(before: pb.RoleActivity | None, after: pb.RoleActivity) -> _PictureCounts:
    """Returns the increase of the counts. Those of a version that was reloaded restarted from 0, and are all new."""
    if before is None or before.requests > after.requests:
        return _PictureCounts(after.requests, after.failures, list(after.latency))
    earlier = list(before.latency) or [0] * len(after.latency)
    return _PictureCounts(
        after.requests - before.requests,
        after.failures - before.failures,
        [b - a for a, b in zip(earlier, after.latency, strict=True)],
    )


def body(current: Picture) -> Mapping[str, object]:
    """Returns the JSON form of a picture without its rollouts. Times are in milliseconds if their names say so."""
    return {
        "seconds": current.seconds, "up_seconds": current.up, "draining": current.draining,
        "requests_per_second": current.rate, "failures_per_second": current.failures,
        "unrouted_per_second": current.unrouted, "versions": [_row_body(row) for row in current.rows],
    }  # fmt: skip


def _row_body(row: ActivityRow) -> Mapping[str, object]:
    return {
        "model": row.model, "version": row.version, "state": row.state, "standing": row.release_status,
        "roles": [{"role": p.role, "weight": p.weight, "requests_per_second": p.rate} for p in row.parts],
        "requests_per_second": row.rate, "failures_per_second": row.failures,
        "p50_ms": None if row.p50 is None else row.p50 * 1e3, "p99_ms": None if row.p99 is None else row.p99 * 1e3,
        "inflight": row.inflight, "queue_depth": row.queue_depth, "queue_fill": row.queue_fill,
    }  # fmt: skip
