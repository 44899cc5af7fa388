"""Converts rollouts to protobuf messages, for all listeners."""

import json
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from turnout.config import Probe
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.explain import lacking
from turnout.rollout.machine.measurements import NOT_ASKED, ProbeRecord
from turnout.rollout.machine.records import UnreadableRollout
from turnout.state.event_log.events import Event
from turnout.state.rollouts import RolloutRecord
from turnout_proto.v1 import rollout_pb2 as pb


def rollout_message(rollout: Rollout, record: RolloutRecord | None, events: list[Event] | None = None) -> pb.Rollout:
    """Converts a rollout and its latest events."""
    evidence, plan = rollout.evidence, rollout.plan
    limits = dict(rollout.thresholds) | ({"slo": plan.slo_ms / 1e3} if plan.slo_ms is not None else {})
    stage = rollout.state.value == "shadowing" and plan.shadow is not None
    soak = plan.shadow.duration_s if stage and plan.shadow else plan.steps[rollout.step].soak_s
    if rollout.state.value == "watching":
        soak = plan.watch_s
    metrics = []
    for metric in evidence.metrics:
        known = evidence.accumulators[metric.name]
        metrics.append(
            pb.RolloutMetric(
                name=metric.name, weight=metric.weight, e_value=evidence.of(metric.name),
                fit_value=evidence.fit(metric.name),
                canary_requests=known.canary.requests, canary_bad=known.canary.bad,
                baseline_requests=known.baseline.requests, baseline_bad=known.baseline.bad,
                threshold_seconds=limits.get(metric.name, 0.0),
            )
        )  # fmt: skip
    return pb.Rollout(
        model=rollout.model, attempt=rollout.attempt, candidate=str(rollout.candidate), previous=str(rollout.previous),
        state=str(rollout.state), step=rollout.step + 1, steps=len(plan.steps), weight=rollout.canary_weight,
        epoch=rollout.epoch, e_value=evidence.combined, threshold=1 / rollout.alpha, metrics=metrics,
        pauses=[f"{p.reason}{f' ({p.actor})' if p.actor else ''}" for p in rollout.pauses], verdict=rollout.verdict,
        step_seconds=rollout.in_state_s if stage or rollout.promoted else rollout.step_s, soak_seconds=soak,
        plan_json=json.dumps(plan.to_json()), plan_digest=plan.digest, actor=rollout.actor, reason=rollout.reason,
        started_at=timestamp(record.started) if record else None,
        changed_at=timestamp(record.changed) if record else None,
        events=[_event(e) for e in events or ()],
        alpha=rollout.alpha, lacking=lacking(rollout),
        probes=[_measured(name, rollout.probes.get(name, NOT_ASKED)) for name in rollout.asked_probes],
    )  # fmt: skip


def probe_message(name: str, probe: Probe) -> pb.Probe:
    """Converts the configuration of a probe, without its endpoint and credentials."""
    limits = [
        f"{words} {limit:g}"
        for words, limit in (("at least", probe.fail_below), ("at most", probe.fail_above))
        if limit is not None
    ]
    return pb.Probe(
        name=name, kind="promql" if probe.is_query else "http", condition=" and ".join(limits) or "true",
        interval_seconds=probe.interval_s, initial_delay_seconds=probe.initial_delay_s, count=probe.count,
        failure_limit=probe.failure_limit, consecutive_error_limit=probe.consecutive_error_limit,
    )  # fmt: skip


def _measured(name: str, record: ProbeRecord) -> pb.RolloutProbe:
    return pb.RolloutProbe(
        name=name, outcome=record.outcome or "", value=record.value, detail=record.detail,
        time=None if record.time is None else timestamp(record.time), passed=record.passed, failed=record.failed,
        inconclusive=record.inconclusive, failure_limit=record.limits.failure_limit, lacking=record.lacking,
    )  # fmt: skip


def found_message(
    found: Rollout | UnreadableRollout, record: RolloutRecord, events: list[Event] | None = None
) -> pb.Rollout:
    """Converts a recorded rollout, readable or not."""
    if not isinstance(found, UnreadableRollout):
        return rollout_message(found, record, events)
    return pb.Rollout(
        model=record.model, attempt=record.attempt, candidate=found.named("candidate"),
        previous=found.named("previous"),
        state=record.state if record.final else "unreadable",
        verdict=found.sentence, plan_json="{}", started_at=timestamp(record.started),
        changed_at=timestamp(record.changed), events=[_event(e) for e in events or ()],
    )  # fmt: skip


def _event(event: Event) -> pb.RolloutEvent:
    payload = event.payload
    return pb.RolloutEvent(
        kind=payload["kind"], text=payload["text"], actor=payload["actor"], time=timestamp(event.time)
    )


def timestamp(time: datetime) -> Timestamp:
    """Converts a time."""
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
