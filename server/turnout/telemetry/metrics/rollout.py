"""Metrics of rollouts."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from turnout.telemetry.families import Family, Labels


@dataclass(frozen=True, slots=True)
class RolloutSample:
    """One rollout at a scrape.

    Attributes:
        state: Its state.
        step: Number of the present step, from 1.
        weight: The candidate's desired share.
        threshold: Combined evidence at which it is rolled back.
        combined: Combined evidence.
        e_values: By metric.
        bad: By arm (`canary`, `baseline`) and metric.
        pauses: Why it is paused, by kind: `operator`, `gate`, `veto`, `insufficient`, `traffic` or `refused`.
    """

    model: str
    version: str
    state: str
    step: int
    weight: float
    threshold: float
    combined: float
    e_values: Mapping[str, float]
    bad: Mapping[tuple[str, str], int]
    pauses: Sequence[str] = ()

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its series."""
        return {"model": self.model, "version": self.version}


@dataclass(frozen=True, slots=True)
class ServerSample:
    """A server that shares the state store, at a scrape.

    Attributes:
        alive: Whether it has reported within four ticks.
        behind: By model, the number of epochs that it is behind the latest of any live server.
    """

    name: str
    alive: bool
    behind: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class MeterSample:
    """A false-alarm meter at a scrape: a rollout of the baseline against itself.

    Attributes:
        alarms: Attempts that ended in a rollback, all of them false.
        attempts: Attempts that were started.
        e_value: Combined evidence of the present attempt.
        requests: Requests in its evidence, by lane.
    """

    model: str
    version: str
    alarms: int
    attempts: int
    e_value: float
    requests: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ProbeSample:
    """The last measurement of a probe, for a rollout that this server drives.

    Attributes:
        model, version: The rollout's model and candidate.
        value: The number; 1 or 0 for a boolean.
    """

    probe: str
    model: str
    version: str
    value: float


@dataclass(slots=True)
class RolloutRecorder:
    """Counts about rollouts.

    Attributes:
        running: Active rollouts, as of this scrape.
        unreadable: By model, rollouts that have not ended and that this release cannot read.
        since_tick: Seconds since the last tick.
        verdicts: By model and final state.
        rollbacks: By model and the cause of the rollback.
        meters: The false-alarm meters, as of this scrape.
        tick_duration: Seconds that the last tick took.
        late_counts: Ticks of other servers that arrived too late to count.
        diverted: Models with a rollback that is in force but not recorded yet.
        servers: Servers that share the state store.
        probes: Names of the configured probes.
        measurements: By probe and outcome.
        probe_values: The last measurements of probes.
        confirms: Whether a webhook confirms steps.
        confirmations: Its answers, by reply.
    """

    running: Sequence[RolloutSample] = ()
    unreadable: Mapping[str, int] = field(default_factory=dict)
    since_tick: float = 0.0
    verdicts: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    rollbacks: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    meters: Sequence[MeterSample] = ()
    tick_duration: float = 0.0
    late_counts: int = 0
    diverted: Collection[str] = ()
    servers: Sequence[ServerSample] = ()
    probes: Collection[str] = ()
    measurements: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    probe_values: Sequence[ProbeSample] = ()
    confirms: bool = False
    confirmations: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


VERDICTS = ("succeeded", "rolled_back", "superseded", "failed")
"""Final states of a rollout."""

CAUSES = ("evidence", "breaker", "guard", "probe", "webhook", "other")
"""Causes of a rollback; the last one covers operators, deadlines and the like. Only the first is within alpha."""

OUTCOMES = ("passed", "failed", "inconclusive")
"""Outcomes of a probe's measurement."""

REPLIES = ("go", "veto", "rollback", "waiting")
"""Replies of the confirm webhook; the last is neither yes nor no."""


def rollout_families(recorder: RolloutRecorder, models: Collection[str]) -> Iterator[Family]:
    """Returns the families of one scrape.

    Args:
        recorder: What was counted.
        models: The models that the server knows. Each has every verdict from the beginning, at 0, so that the first one
            is an increase.
    """
    running = recorder.running
    verdicts = dict.fromkeys((model, verdict) for model in models for verdict in VERDICTS) | dict(recorder.verdicts)

    def gauge(name: str, text: str, samples: list[tuple[Labels, float]]) -> Family:
        return Family(name, "gauge", text, samples)

    yield gauge(
        "turnout_rollout_state", "1 for the state that a rollout is in.",
        [(r.labels | {"state": r.state}, 1.0) for r in running],
    )  # fmt: skip
    yield gauge("turnout_rollout_step", "Number of the present step, from 1.", [(r.labels, r.step) for r in running])
    yield gauge(
        "turnout_rollout_weight", "Desired share of the candidate, 0 to 1.", [(r.labels, r.weight) for r in running]
    )
    yield gauge(
        "turnout_rollout_paused", "1 for each reason that a rollout stands still for.",
        [(r.labels | {"reason_kind": kind}, 1.0) for r in running for kind in dict.fromkeys(r.pauses)],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_e_value", "Evidence that the candidate is worse, by metric and combined.",
        [
            (r.labels | {"metric": metric}, value)
            for r in running
            for metric, value in ({"combined": r.combined} | dict(r.e_values)).items()
        ],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_threshold", "Combined evidence that a rollout is rolled back at.",
        [(r.labels, r.threshold) for r in running],
    )  # fmt: skip
    yield Family(
        "turnout_rollout_bad_events_total", "counter", "Bad events that the evidence has taken in.",
        [(r.labels | {"arm": arm, "metric": m}, float(n)) for r in running for (arm, m), n in r.bad.items()],
    )  # fmt: skip
    yield Family(
        "turnout_rollout_verdicts_total", "counter", "Rollouts by how they ended.",
        [({"model": m, "verdict": v}, float(recorder.verdicts.get((m, v), 0))) for m, v in verdicts],
    )  # fmt: skip
    rollbacks = dict.fromkeys((model, cause) for model in models for cause in CAUSES) | dict(recorder.rollbacks)
    yield Family(
        "turnout_rollout_rollbacks_total", "counter",
        "Candidates rolled back, by evidence, circuit breaker, guard, probe, confirm webhook or something else.",
        [({"model": m, "reason_kind": c}, float(recorder.rollbacks.get((m, c), 0))) for m, c in rollbacks],
    )  # fmt: skip
    yield Family(
        "turnout_probe_measurements_total", "counter",
        "Measurements of probes for rollouts; an inconclusive one is neither pass nor fail.",
        [
            ({"probe": p, "outcome": o}, float(recorder.measurements.get((p, o), 0)))
            for p in recorder.probes for o in OUTCOMES
        ],
    )  # fmt: skip
    yield gauge(
        "turnout_probe_value", "What a probe measured last of a rollout that this server drives; of a boolean 1 or 0.",
        [({"probe": s.probe, "model": s.model, "version": s.version}, s.value) for s in recorder.probe_values],
    )  # fmt: skip
    yield Family(
        "turnout_rollout_confirmations_total", "counter",
        "Answers of the confirm webhook; `waiting` is neither yes nor no.",
        [({"reply": r}, float(recorder.confirmations.get(r, 0))) for r in REPLIES if recorder.confirms],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_unreadable", "Rollouts that have not ended and that this release cannot read.",
        [({"model": m}, float(recorder.unreadable.get(m, 0))) for m in dict.fromkeys((*models, *recorder.unreadable))],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_tick_duration_seconds", "What the last look at rollouts took, waits for the store included.",
        [({}, recorder.tick_duration)],
    )  # fmt: skip
    yield Family(
        "turnout_rollout_late_counts_total", "counter",
        "Ticks of other servers that came too late to be counted by whoever drives the rollout.",
        [({}, float(recorder.late_counts))],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_unrecorded", "1 while a rollback of the model is in force and not on record.",
        [({"model": m}, float(m in recorder.diverted)) for m in dict.fromkeys((*models, *recorder.diverted))],
    )  # fmt: skip
    alive = sum(one.alive for one in recorder.servers)
    yield gauge(
        "turnout_servers", "Servers and workers that share the state store: alive, or silent for more than four ticks.",
        [({"state": "alive"}, float(alive)), ({"state": "silent"}, float(len(recorder.servers) - alive))],
    )  # fmt: skip
    yield gauge(
        "turnout_server_epochs_behind",
        "Epochs that a server's policy is behind the latest of any server on the state store.",
        [({"server": s.name, "model": m}, float(n)) for s in recorder.servers if s.alive for m, n in s.behind.items()],
    )  # fmt: skip
    yield gauge("turnout_rollout_last_tick_seconds", "Since rollouts were last looked at.", [({}, recorder.since_tick)])
    yield Family(
        "turnout_rollout_false_alarms_total", "counter",
        "Comparisons of a baseline with itself that ended in a rollback.",
        [({"model": m.model}, float(m.alarms)) for m in recorder.meters],
    )  # fmt: skip
    yield Family(
        "turnout_rollout_false_alarm_attempts_total", "counter",
        "Comparisons of a baseline with itself that were begun.",
        [({"model": m.model}, float(m.attempts)) for m in recorder.meters],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_false_alarm_e_value", "Combined evidence of the present comparison of a baseline with itself.",
        [({"model": m.model, "version": m.version}, m.e_value) for m in recorder.meters],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_false_alarm_requests", "Requests that the present comparison has taken in, by lane.",
        [
            ({"model": m.model, "version": m.version, "lane": lane}, float(count))
            for m in recorder.meters
            for lane, count in m.requests.items()
        ],
    )  # fmt: skip
