"""Updates the metrics of rollouts."""

from collections import Counter

from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.false_alarm_meter import FalseAlarmMeters
from turnout.rollout.machine.attempt import Rollout
from turnout.telemetry.metrics.rollout import RolloutRecorder, RolloutSample


def record_rollouts(rollouts: RolloutEngine, meters: FalseAlarmMeters, recorder: RolloutRecorder) -> None:
    """Records the rollouts that this server drives, and its meters. Called before a scrape."""
    recorder.running = [_sample(active.rollout) for active in rollouts.active]
    recorder.unreadable = Counter(one.record.model for one in rollouts.unreadable)
    recorder.meters = meters.samples
    recorder.since_tick = rollouts.seconds_since_tick
    recorder.tick_duration = rollouts.tick_duration
    recorder.late_counts = rollouts.late_counts
    recorder.diverted = {diversion.model: True for diversion in rollouts.diversions.current}
    servers = rollouts.servers
    alive = sum(one.alive for one in servers)
    recorder.servers = {"alive": alive, "silent": len(servers) - alive}
    recorder.behind = {(s.name, model): epochs for s in servers if s.alive for model, epochs in s.behind.items()}


def _sample(rollout: Rollout) -> RolloutSample:
    evidence = rollout.evidence
    return RolloutSample(
        rollout.model,
        str(rollout.candidate),
        state={str(rollout.state): 1},
        step=rollout.step + 1,
        weight=rollout.canary_weight,
        paused={pause.kind: 1 for pause in rollout.pauses},
        e_value={"combined": evidence.combined, **{m.name: evidence.of(m.name) for m in evidence.metrics}},
        threshold=1 / rollout.alpha,
        bad={
            (arm, name): count.bad
            for name, a in evidence.accumulators.items()
            for arm, count in (("canary", a.canary), ("baseline", a.baseline))
        },
    )
