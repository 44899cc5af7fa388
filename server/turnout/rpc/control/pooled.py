"""What several workers tell, as one server's. Pure."""

from collections.abc import Iterable, Sequence

from turnout_proto.v1 import activity_pb2 as pb
from turnout_proto.v1.catalog_pb2 import VersionState

_WORST_LAST = (
    VersionState.VERSION_STATE_READY,
    VersionState.VERSION_STATE_UNLOADED,
    VersionState.VERSION_STATE_DRAINING,
    VersionState.VERSION_STATE_NEW,
    VersionState.VERSION_STATE_WARMING,
    VersionState.VERSION_STATE_LOADING,
    VersionState.VERSION_STATE_FAILED,
)


def pooled_activity(own: pb.GetActivityResponse, others: Sequence[pb.GetActivityResponse]) -> pb.GetActivityResponse:
    """Returns the sum of what all workers do.

    A version is in the state of the worker that is least far with it. The sum goes by a name of its own for each set of
    processes: one that was started anew has counted from 0.
    """
    every = [own, *others]
    versions: dict[tuple[str, str], list[pb.VersionActivity]] = {}
    for one in every:
        for version in one.versions:
            versions.setdefault((version.model, version.version), []).append(version)
    rollouts = {(rollout.model, rollout.attempt): rollout for one in every for rollout in one.rollouts}
    return pb.GetActivityResponse(
        seconds=min(one.seconds for one in every),
        draining=any(one.draining for one in every),
        latency_bounds=own.latency_bounds,
        unrouted=sum(one.unrouted for one in every),
        versions=[_version(several) for several in versions.values()],
        rollouts=rollouts.values(),
        process="+".join(sorted(one.process for one in every)),
    )


def _version(several: Sequence[pb.VersionActivity]) -> pb.VersionActivity:
    first = several[0]
    message = pb.VersionActivity(
        model=first.model,
        version=first.version,
        state=max((one.state for one in several), key=_WORST_LAST.index),
        standing=first.standing,
        inflight=sum(one.inflight for one in several),
        queue_depth=sum(one.queue_depth for one in several),
        queue_fill=max(one.queue_fill for one in several),
    )
    for role in dict.fromkeys(role.role for one in several for role in one.roles):
        message.roles.append(_role(role, [r for one in several for r in one.roles if r.role == role], len(several)))
    return message


def _role(name: str, several: Sequence[pb.RoleActivity], workers: int) -> pb.RoleActivity:
    return pb.RoleActivity(
        role=name,
        requests=sum(one.requests for one in several),
        failures=sum(one.failures for one in several),
        latency=_sums(one.latency for one in several if one.latency),
        weight=sum(one.weight for one in several) / workers,
    )


def _sums(lists: Iterable[Iterable[int]]) -> list[int]:
    return [sum(column) for column in zip(*lists, strict=True)]
