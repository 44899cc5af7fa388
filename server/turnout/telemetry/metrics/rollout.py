"""Metrics of rollouts."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from turnout.telemetry.families import Family, Labels, counter, families_of, gauge


@dataclass(frozen=True, slots=True)
class RolloutSample:
    """A rollout at the time of a scrape.

    Attributes:
        version: The candidate.
        paused: By kind of reason: `operator`, `gate`, `veto`, `insufficient`, `traffic` or `refused`.
    """

    model: str
    version: str
    state: Mapping[str, int] = gauge("turnout_rollout_state", "1 for the current state of a rollout.", "state")
    step: int = gauge("turnout_rollout_step", "Number of the current step, starting at 1.")
    weight: float = gauge("turnout_rollout_weight", "Desired share of the candidate, 0 to 1.")
    paused: Mapping[str, int] = gauge(
        "turnout_rollout_paused", "1 for each reason for which a rollout is paused.", "reason_kind"
    )
    e_value: Mapping[str, float] = gauge(
        "turnout_rollout_e_value", "Evidence that the candidate is worse, by metric and combined.", "metric"
    )
    threshold: float = gauge("turnout_rollout_threshold", "Combined evidence at which a rollout is rolled back.")
    bad: Mapping[tuple[str, str], int] = counter(
        "turnout_rollout_bad_events_total", "Bad events in the evidence, by arm and metric.", "arm", "metric"
    )

    @property
    def labels(self) -> Labels:
        """Labels of the rollout's series."""
        return {"model": self.model, "version": self.version}


@dataclass(frozen=True, slots=True)
class MeterSample:
    """A false-alarm meter at the time of a scrape: a simulated rollout that compares the baseline with itself."""

    labels: Labels
    alarms: int = counter(
        "turnout_rollout_false_alarms_total", "Comparisons of a baseline with itself that ended in a rollback."
    )
    attempts: int = counter(
        "turnout_rollout_false_alarm_attempts_total", "Comparisons of a baseline with itself that were started."
    )
    e_value: Mapping[str, float] = gauge(
        "turnout_rollout_false_alarm_e_value", "Combined evidence of the current comparison of a baseline with itself.",
        "version",
    )  # fmt: skip
    requests: Mapping[tuple[str, str], int] = gauge(
        "turnout_rollout_false_alarm_requests",
        "Requests in the current comparison of a baseline with itself, by lane.", "version", "lane",
    )  # fmt: skip


@dataclass(slots=True)
class RolloutRecorder:
    """Counts and current values of rollouts.

    Attributes:
        probes: Names of the configured probes.
        confirms: Whether a webhook confirms steps.
        running: The rollouts that this server drives.
    """

    running: Sequence[RolloutSample] = ()
    meters: Sequence[MeterSample] = ()
    probes: Collection[str] = ()
    confirms: bool = False
    verdicts: defaultdict[tuple[str, str], int] = counter(
        "turnout_rollout_verdicts_total", "Ended rollouts, by final state.", "model", "verdict"
    )
    rollbacks: defaultdict[tuple[str, str], int] = counter(
        "turnout_rollout_rollbacks_total",
        "Candidates rolled back, by cause: evidence, circuit breaker, guard, probe, confirm webhook or other.",
        "model", "reason_kind",
    )  # fmt: skip
    measurements: defaultdict[tuple[str, str], int] = counter(
        "turnout_probe_measurements_total",
        "Measurements of probes for rollouts, by outcome. An inconclusive one neither passed nor failed.",
        "probe", "outcome",
    )  # fmt: skip
    probe_values: Mapping[tuple[str, ...], float] = gauge(
        "turnout_probe_value", "Last measurement of a probe for a rollout that this server runs; 1 or 0 for a boolean.",
        "probe", "model", "version",
    )  # fmt: skip
    confirmations: defaultdict[str, int] = counter(
        "turnout_rollout_confirmations_total",
        "Answers of the confirm webhook, by reply; `waiting` is neither yes nor no.", "reply",
    )  # fmt: skip
    unreadable: Mapping[str, int] = gauge(
        "turnout_rollout_unreadable", "Unfinished rollouts that this release of Turnout cannot read.", "model"
    )
    tick_duration: float = gauge(
        "turnout_rollout_tick_duration_seconds",
        "Duration of the last tick of all rollouts, including waits for the state store.",
    )
    late_counts: int = counter(
        "turnout_rollout_late_counts_total",
        "Ticks from other servers that arrived too late for the server that runs the rollout to count them.",
    )
    diverted: Mapping[str, bool] = gauge(
        "turnout_rollout_unrecorded",
        "1 while a rollback of the model is in force but not yet recorded, else 0.", "model",
    )  # fmt: skip
    servers: Mapping[str, int] = gauge(
        "turnout_servers", "Servers and workers on the state store: alive, or silent for more than four ticks.", "state"
    )
    behind: Mapping[tuple[str, str], int] = gauge(
        "turnout_server_epochs_behind",
        "Number of epochs that a server's policy is behind the latest policy of any server on the state store.",
        "server", "model",
    )  # fmt: skip
    since_tick: float = gauge("turnout_rollout_last_tick_seconds", "Time since the last tick of all rollouts.")


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
    yield from families_of(recorder.running, RolloutSample)
    yield from families_of(recorder.meters, MeterSample)
    yield from families_of(
        [recorder],
        RolloutRecorder,
        verdicts=_zeros(models, VERDICTS) | recorder.verdicts,
        rollbacks=_zeros(models, CAUSES) | recorder.rollbacks,
        measurements=_zeros(recorder.probes, OUTCOMES) | recorder.measurements,
        confirmations=dict.fromkeys(REPLIES, 0) | recorder.confirmations if recorder.confirms else None,
        unreadable=dict.fromkeys(models, 0) | dict(recorder.unreadable),
        diverted=dict.fromkeys(models, False) | dict(recorder.diverted),
    )


def _zeros(names: Iterable[str], values: Iterable[str]) -> dict[tuple[str, str], int]:
    return dict.fromkeys(((name, value) for name in names for value in values), 0)
