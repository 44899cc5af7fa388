"""Methods of the control service that report a server's activity and the servers that share its state store."""

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.engine.exchange.peers import OtherServer
from turnout.rollout.reporting.messages import rollout_message, timestamp
from turnout.rpc.catalog import RELEASE_STATUSES, STATES
from turnout.rpc.control.pooled import pooled_activity
from turnout.serving.versions.catalog import Catalog, VersionEntry
from turnout.telemetry.histogram import LATENCY_BOUNDS
from turnout.telemetry.metrics.versions import Metrics, VersionRecorder
from turnout.workers.peers import EachWorker, Peers
from turnout_proto.v1 import activity_pb2 as pb
from turnout_proto.v1 import servers_pb2

_APPLIED = "applied"


class ActivityMethods:
    """Reports the activity of versions, and lists servers."""

    def __init__(
        self,
        sample: Callable[[], None],
        catalog: Catalog,
        rollouts: RolloutEngine,
        metrics: Metrics,
        accepting: Callable[[], bool],
        peers: Peers | None,
    ) -> None:
        """Initializes the methods. `sample` updates the gauges; `accepting` returns False once the server drains."""
        self._sample = sample
        self._catalog = catalog
        self._rollouts = rollouts
        self._metrics = metrics
        self._accepting = accepting
        self._since = time.monotonic()
        self._process = uuid.uuid4().hex
        self._everywhere = EachWorker(peers, "activity", pb.GetActivityRequest, self._activity)

    async def GetActivity(self, request: pb.GetActivityRequest) -> pb.GetActivityResponse:
        """Returns counters and gauges of every version. Does not count as a scrape for versions that were removed."""
        own, *others = await self._everywhere.ask(request)
        return pooled_activity(own, others) if others else own

    async def ListServers(self, _: servers_pb2.ListServersRequest) -> servers_pb2.ListServersResponse:
        """Lists the servers that share the state store, and how far behind each of them is."""
        found = [_server(one) for one in self._rollouts.servers]
        return servers_pb2.ListServersResponse(servers=found, answered_by=self._rollouts.server)

    def _activity(self, _: pb.GetActivityRequest) -> pb.GetActivityResponse:
        self._sample()
        return pb.GetActivityResponse(
            process=self._process,
            seconds=time.monotonic() - self._since,
            draining=not self._accepting(),
            latency_bounds=LATENCY_BOUNDS,
            unrouted=self._metrics.unrouted_requests,
            versions=[
                _version(entry) for model in self._catalog.snapshot.models.values() for entry in model.versions.values()
            ],
            rollouts=[rollout_message(active.rollout, None) for active in self._rollouts.active],
        )


def _server(one: OtherServer) -> servers_pb2.ServerStatus:
    message = servers_pb2.ServerStatus(
        name=one.name, alive=one.alive, started_at=timestamp(one.started), address=str(one.about.get("grpc", "")),
        release=str(one.about.get("release", "")),
    )  # fmt: skip
    message.silent.FromTimedelta(timedelta(seconds=one.silent_s))
    for model in sorted({*one.versions, *one.epochs}):
        message.models.add(
            model=model, versions=one.versions.get(model, ()), epoch=one.epochs.get(model, 0),
            behind=one.behind.get(model, 0), diverted=one.diverted.get(model, ""),
        )  # fmt: skip
    return message


def _version(entry: VersionEntry) -> pb.VersionActivity:
    message = pb.VersionActivity(
        model=entry.model,
        version=entry.version_text,
        state=STATES[entry.state],
        standing=RELEASE_STATUSES[entry.release_status],
    )
    if entry.handle is not None:
        recorder = entry.handle.recorder
        message.inflight, message.queue_depth = recorder.inflight, recorder.queue_depth
        message.queue_fill = recorder.queue_fill
        message.roles.extend(_roles(recorder))
    return message


def _roles(recorder: VersionRecorder) -> Iterator[pb.RoleActivity]:
    weights = {role: weight for (role, kind), weight in recorder.traffic_weight.items() if kind == _APPLIED}
    for role in dict.fromkeys([*recorder.roles, *weights]):
        message = pb.RoleActivity(role=role, weight=weights.get(role, 0.0))
        if (counted := recorder.roles.get(role)) is not None:
            message.requests = sum(counted.codes.values())
            message.failures = message.requests - counted.codes["OK"]
            message.latency.extend(counted.duration.counts)
        yield message
