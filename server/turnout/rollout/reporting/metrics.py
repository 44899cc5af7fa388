"""Updates the metrics of rollouts."""

from collections import Counter

from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.false_alarm_meter import FalseAlarmMeters
from turnout.telemetry.metrics.rollout import RolloutRecorder, RolloutSample, ServerSample


def record_rollouts(rollouts: RolloutEngine, meters: FalseAlarmMeters, recorder: RolloutRecorder) -> None:
    """Records the rollouts that this server drives, and its meters. Called before a scrape."""
    samples = []
    for active in rollouts.active:
        rollout = active.rollout
        evidence = rollout.evidence
        bad = {
            (arm, name): count.bad
            for name, a in evidence.accumulators.items()
            for arm, count in (("canary", a.canary), ("baseline", a.baseline))
        }
        samples.append(
            RolloutSample(
                rollout.model, str(rollout.candidate), str(rollout.state), rollout.step + 1, rollout.canary_weight,
                1 / rollout.alpha, evidence.combined, {m.name: evidence.of(m.name) for m in evidence.metrics}, bad,
                [pause.kind for pause in rollout.pauses],
            )
        )  # fmt: skip
    recorder.running = samples
    recorder.unreadable = Counter(one.record.model for one in rollouts.unreadable)
    recorder.meters = meters.samples
    recorder.since_tick = rollouts.seconds_since_tick
    recorder.tick_duration = rollouts.tick_duration
    recorder.late_counts = rollouts.late_counts
    recorder.diverted = {diversion.model for diversion in rollouts.diversions.current}
    recorder.servers = [ServerSample(one.name, one.alive, one.behind) for one in rollouts.servers]
