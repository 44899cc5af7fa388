"""Metrics of rollouts."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from turnout.telemetry.families import Family, Labels


@dataclass(frozen=True, slots=True)
class RolloutSample:
    """A rollout at the time of a scrape.

    Attributes:
        version: The candidate.
        step: Number of the current step, starting at 1.
        weight: Desired share of the candidate, 0 to 1.
        threshold: Combined evidence at which the candidate is rolled back.
        bad: Number of bad events by arm (`canary`, `baseline`) and metric.
        pauses: Kinds of reasons for which the rollout is paused: `operator`, `gate`, `veto`, `insufficient`, `traffic`
            or `refused`.
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
        """Labels of the rollout's series."""
        return {"model": self.model, "version": self.version}


@dataclass(frozen=True, slots=True)
class ServerSample:
    """A server on the state store at the time of a scrape.

    Attributes:
        alive: Whether it has reported within the last four ticks.
        behind: Number of epochs, by model, that its policy is behind the latest policy of any live server.
    """

    name: str
    alive: bool
    behind: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class MeterSample:
    """A false-alarm meter at the time of a scrape: a simulated rollout that compares the baseline with itself.

    Attributes:
        version: The baseline.
        alarms: Number of attempts that ended in a rollback. All of them are false alarms.
        e_value: Combined evidence of the current attempt.
        requests: Number of requests in its evidence, by lane.
    """

    model: str
    version: str
    alarms: int
    attempts: int
    e_value: float
    requests: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ProbeSample:
    """The last measurement of a probe for a rollout that this server runs.

    Attributes:
        model, version: Model and candidate of the rollout.
        value: The measured number; 1 or 0 for a boolean.
    """

    probe: str
    model: str
    version: str
    value: float


@dataclass(slots=True)
class RolloutRecorder:
    """Counts and current values of rollouts.

    Attributes:
        unreadable: Number of unfinished rollouts, by model, that this release of Turnout cannot read.
        since_tick: Seconds since the last tick.
        verdicts: Number of ended rollouts, by model and final state.
        rollbacks: Number of rollbacks, by model and cause.
        tick_duration: Duration of the last tick, in seconds.
        late_counts: Number of ticks from other servers that arrived too late to be counted.
        diverted: Models with a rollback that is in force but not recorded yet.
        probes: Names of the configured probes.
        measurements: Number of measurements, by probe and outcome.
        confirmations: Number of the webhook's answers, by reply.
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
"""Causes of a rollback. `other` covers operators, deadlines and the like. The plan's `alpha` only bounds `evidence`."""

OUTCOMES = ("passed", "failed", "inconclusive")
"""Outcomes of a probe's measurement."""

REPLIES = ("go", "veto", "rollback", "waiting")
"""Replies of the confirm webhook; `waiting` is neither yes nor no."""


def rollout_families(recorder: RolloutRecorder, models: Collection[str]) -> Iterator[Family]:
    """Returns the families of one scrape.

    Every verdict of each of the `models` starts at 0, so that Prometheus sees the first one as an increase.
    """
    running = recorder.running
    verdicts = dict.fromkeys((model, verdict) for model in models for verdict in VERDICTS) | dict(recorder.verdicts)

    def gauge(name: str, text: str, samples: list[tuple[Labels, float]]) -> Family:
        return Family(name, "gauge", text, samples)

    yield gauge(
        "turnout_rollout_state", "1 for the current state of a rollout.",
        [(r.labels | {"state": r.state}, 1.0) for r in running],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_step", "Number of the current step, starting at 1.", [(r.labels, r.step) for r in running]
    )
    yield gauge(
        "turnout_rollout_weight", "Desired share of the candidate, 0 to 1.", [(r.labels, r.weight) for r in running]
    )
    yield gauge(
        "turnout_rollout_paused", "1 for each reason for which a rollout is paused.",
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
        "turnout_rollout_threshold", "Combined evidence at which a rollout is rolled back.",
        [(r.labels, r.threshold) for r in running],
    )  # fmt: skip
    yield Family(
        "turnout_rollout_bad_events_total", "counter", "Bad events in the evidence, by arm and metric.",
        [(r.labels | {"arm": arm, "metric": m}, float(n)) for r in running for (arm, m), n in r.bad.items()],
    )  # fmt: skip
    yield Family(
        "turnout_rollout_verdicts_total", "counter", "Ended rollouts, by final state.",
        [({"model": m, "verdict": v}, float(recorder.verdicts.get((m, v), 0))) for m, v in verdicts],
    )  # fmt: skip
    rollbacks = dict.fromkeys((model, cause) for model in models for cause in CAUSES) | dict(recorder.rollbacks)
    yield Family(
        "turnout_rollout_rollbacks_total", "counter",
        "Candidates rolled back, by cause: evidence, circuit breaker, guard, probe, confirm webhook or other.",
        [({"model": m, "reason_kind": c}, float(recorder.rollbacks.get((m, c), 0))) for m, c in rollbacks],
    )  # fmt: skip
    yield Family(
        "turnout_probe_measurements_total", "counter",
        "Measurements of probes for rollouts, by outcome. An inconclusive one neither passed nor failed.",
        [
            ({"probe": p, "outcome": o}, float(recorder.measurements.get((p, o), 0)))
            for p in recorder.probes for o in OUTCOMES
        ],
    )  # fmt: skip
    yield gauge(
        "turnout_probe_value", "Last measurement of a probe for a rollout that this server runs; 1 or 0 for a boolean.",
        [({"probe": s.probe, "model": s.model, "version": s.version}, s.value) for s in recorder.probe_values],
    )  # fmt: skip
    yield Family(
        "turnout_rollout_confirmations_total", "counter",
        "Answers of the confirm webhook, by reply; `waiting` is neither yes nor no.",
        [({"reply": r}, float(recorder.confirmations.get(r, 0))) for r in REPLIES if recorder.confirms],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_unreadable", "Unfinished rollouts that this release of Turnout cannot read.",
        [({"model": m}, float(recorder.unreadable.get(m, 0))) for m in dict.fromkeys((*models, *recorder.unreadable))],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_tick_duration_seconds",
        "Duration of the last tick of all rollouts, including waits for the state store.",
        [({}, recorder.tick_duration)],
    )  # fmt: skip
    yield Family(
        "turnout_rollout_late_counts_total", "counter",
        "Ticks from other servers that arrived too late for the server that runs the rollout to count them.",
        [({}, float(recorder.late_counts))],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_unrecorded", "1 while a rollback of the model is in force but not yet recorded, else 0.",
        [({"model": m}, float(m in recorder.diverted)) for m in dict.fromkeys((*models, *recorder.diverted))],
    )  # fmt: skip
    alive = sum(one.alive for one in recorder.servers)
    yield gauge(
        "turnout_servers", "Servers and workers on the state store: alive, or silent for more than four ticks.",
        [({"state": "alive"}, float(alive)), ({"state": "silent"}, float(len(recorder.servers) - alive))],
    )  # fmt: skip
    yield gauge(
        "turnout_server_epochs_behind",
        "Number of epochs that a server's policy is behind the latest policy of any server on the state store.",
        [({"server": s.name, "model": m}, float(n)) for s in recorder.servers if s.alive for m, n in s.behind.items()],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_last_tick_seconds", "Time since the last tick of all rollouts.", [({}, recorder.since_tick)]
    )
    yield Family(
        "turnout_rollout_false_alarms_total", "counter",
        "Comparisons of a baseline with itself that ended in a rollback.",
        [({"model": m.model}, float(m.alarms)) for m in recorder.meters],
    )  # fmt: skip
    yield Family(
        "turnout_rollout_false_alarm_attempts_total", "counter",
        "Comparisons of a baseline with itself that were started.",
        [({"model": m.model}, float(m.attempts)) for m in recorder.meters],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_false_alarm_e_value", "Combined evidence of the current comparison of a baseline with itself.",
        [({"model": m.model, "version": m.version}, m.e_value) for m in recorder.meters],
    )  # fmt: skip
    yield gauge(
        "turnout_rollout_false_alarm_requests",
        "Requests in the current comparison of a baseline with itself, by lane.",
        [
            ({"model": m.model, "version": m.version, "lane": lane}, float(count))
            for m in recorder.meters
            for lane, count in m.requests.items()
        ],
    )  # fmt: skip
