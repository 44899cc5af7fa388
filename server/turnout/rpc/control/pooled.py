"""Merges the responses of several workers into one. Pure."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from turnout.telemetry.ratios import ShadowAgreement
from turnout.workers.rules import STATES
from turnout_proto.v1 import activity_pb2 as pb
from turnout_proto.v1 import traffic_pb2
from turnout_proto.v1.catalog_pb2 import VersionState
from turnout_proto.v1.prediction_pb2 import Role

_WORST_LAST = [VersionState.Value(f"VERSION_STATE_{state.upper()}") for state in STATES]


def pooled_activity(own: pb.GetActivityResponse, others: Sequence[pb.GetActivityResponse]) -> pb.GetActivityResponse:
    """Returns the combined activity of all workers.

    The state of a version is its least advanced state in any worker. The `process` field names all processes: it
    changes when a worker is restarted, since the new process counts from 0.
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


def pooled_traffic(own: traffic_pb2.TrafficState, others: Sequence[traffic_pb2.TrafficState]) -> None:
    """Adds the request counts of the other workers for the same epoch to those of one worker, in place."""
    same = [own, *(other for other in others if (other.model, other.epoch) == (own.model, own.epoch))]
    for share in own.shares:
        parts = [s for one in same for s in one.shares if (s.version, s.role) == (share.version, share.role)]
        share.decisions = sum(part.decisions for part in parts)
    total = sum(share.decisions for share in own.shares)
    for share in own.shares:
        expected = share.applied * total
        spread = (expected * (1.0 - share.applied)) ** 0.5
        shadow = share.role == Role.ROLE_SHADOW
        share.deviation = (share.decisions - expected) / spread if spread and not shadow else 0.0


def pooled_shadows(
    own: Sequence[traffic_pb2.ShadowReport], others: Iterable[traffic_pb2.ShadowReport], worst: int
) -> list[traffic_pb2.ShadowReport]:
    """Returns the combined shadow reports of all workers, with at most `worst` disagreements each."""
    pairs: dict[tuple[str, str], list[traffic_pb2.ShadowReport]] = {}
    for report in (*own, *others):
        pairs.setdefault((report.baseline, report.version), []).append(report)
    return [_shadow(several, worst) for several in pairs.values()]


def _shadow(several: Sequence[traffic_pb2.ShadowReport], worst: int) -> traffic_pb2.ShadowReport:
    first = several[0]
    outcomes, dropped = _counts(r.outcomes for r in several), _counts(r.dropped for r in several)
    noise, runs = sum(r.noise_disagreements for r in several), sum(r.noise_runs for r in several)
    compared = outcomes.get("agreed", 0) + outcomes.get("disagreed", 0)
    outputs: dict[str, list[traffic_pb2.ShadowOutput]] = {}
    for report in several:
        for output in report.outputs:
            outputs.setdefault(output.name, []).append(output)
    by_severity: Iterator[traffic_pb2.Disagreement] = heapq.merge(
        *(r.worst for r in several), key=lambda one: -one.severity
    )
    return traffic_pb2.ShadowReport(
        version=first.version,
        baseline=first.baseline,
        state=next((r.state for r in several if r.state != "open"), "open"),
        outcomes=outcomes,
        dropped=dropped,
        agreement=ShadowAgreement(outcomes.get("disagreed", 0), compared, noise, runs).value if compared else None,
        noise_runs=runs,
        noise_disagreements=noise,
        outputs=[_output(outputs[name]) for name in sorted(outputs)],
        worst=islice(by_severity, worst),
    )


def _output(several: Sequence[traffic_pb2.ShadowOutput]) -> traffic_pb2.ShadowOutput:
    measured, ranked = sum(o.measured for o in several), sum(o.ranked for o in several)
    return traffic_pb2.ShadowOutput(
        name=several[0].name,
        compared=sum(o.compared for o in several),
        mismatches=_counts(o.mismatches for o in several),
        max_abs=max(o.max_abs for o in several),
        mean_abs=sum(o.mean_abs * o.measured for o in several) / measured if measured else 0.0,
        top1=sum(o.top1 * o.ranked for o in several) / ranked if ranked else None,
        top_k=sum(o.top_k * o.ranked for o in several) / ranked if ranked else None,
        measured=measured,
        ranked=ranked,
    )


def _counts(maps: Iterable[Mapping[str, int]]) -> dict[str, int]:
    whole: Counter[str] = Counter()
    for one in maps:
        whole.update(dict(one))
    return dict(whole)


def _sums(lists: Iterable[Iterable[int]]) -> list[int]:
    return [sum(column) for column in zip(*lists, strict=True)]
