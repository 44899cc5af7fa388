"""The dashboard of a model's rollout: desired and actual traffic, and the evidence."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from parts import ANY, MODEL, annotation, board, lines, moved, rows, with_model


def rollout() -> Dashboard:
    """Returns the dashboard."""
    made = with_model(
        board("turnout-rollout", "Turnout / Rollout", "The rollout of a candidate, and its evidence.", ["rollout"])
    )
    candidate = "{{version}}"
    return (
        made.annotation(moved())
        .annotation(
            annotation(
                "verdicts", f"sum by (verdict) (increase(turnout_rollout_verdicts_total{{{MODEL}}}[1m])) > 0", "red"
            )
        )
        .with_panel(
            lines(
                "evidence that the candidate is worse",
                (f"max by (version, metric) (turnout_rollout_e_value{{{MODEL}}})", "{{version}} {{metric}}"),
                (f"max by (version) (turnout_rollout_threshold{{{MODEL}}})", "{{version}} threshold"),
                about="At the threshold the candidate is rolled back. The probability that this is wrong is at most "
                "1 / threshold, however often the evidence is evaluated.",
                width=16,
                logarithmic=True,
                dashed="threshold",
            )
        )
        .with_panel(
            rows("state", f"max by (version, state) (turnout_rollout_state{{{MODEL}}})", ["version", "state"], width=8)
        )
        .with_panel(
            lines(
                "share of the traffic",
                (
                    f'avg by (version, role) (turnout_traffic_weight{{{MODEL},kind="desired"}})',
                    "{{version}} {{role}} desired",
                ),
                (
                    f'avg by (version, role) (turnout_traffic_weight{{{MODEL},kind="applied"}})',
                    "{{version}} {{role}} applied",
                ),
                (f"avg by (version, role) (turnout_traffic_share{{{MODEL}}})", "{{version}} {{role}} seen"),
                about="Desired, applied, and measured since the policy last changed.",
                unit="percentunit",
                highest=1,
                width=16,
                dashed="desired",
            )
        )
        .with_panel(
            lines(
                "verdicts",
                (f"sum by (verdict) (increase(turnout_rollout_verdicts_total{{{MODEL}}}[$__range]))", "{{verdict}}"),
                about="Within the selected time range.",
            )
        )
        .with_panel(
            lines(
                "bad events",
                (
                    f"sum by (version, arm, metric) (turnout_rollout_bad_events_total{{{MODEL}}})",
                    "{{version}} {{arm}} {{metric}}",
                ),
                about="Bad events of both arms in the evidence.",
            )
        )
        .with_panel(
            lines(
                "errors beyond the baseline's",
                (f"version:turnout_request_errors:canary_minus_baseline_ratio_rate5m{{{MODEL}}}", candidate),
                unit="percentunit",
                lowest=None,
            )
        )
        .with_panel(
            lines(
                "latency relative to the baseline",
                *(
                    (
                        f"version:turnout_request_duration_seconds:canary_to_baseline_{q}_rate5m{{{MODEL}}}",
                        f"{candidate} {q}",
                    )
                    for q in ("p50", "p90", "p99")
                ),
                about="1 means as slow as the baseline.",
            )
        )
        .with_panel(
            lines(
                "step and desired share",
                (f"max by (version) (turnout_rollout_step{{{MODEL}}})", "{{version}} step"),
                (f"max by (version) (turnout_rollout_weight{{{MODEL}}})", "{{version}} share"),
            )
        )
        .with_panel(
            lines(
                "paused because of",
                (f"max by (version, reason_kind) (turnout_rollout_paused{{{MODEL}}})", "{{version}} {{reason_kind}}"),
            )
        )
        .with_panel(
            lines(
                "probes",
                (f"max by (version, probe) (turnout_probe_value{{{MODEL}}})", "{{version}} {{probe}}"),
                about="Last measurement of each probe; 1 or 0 for a boolean.",
            )
        )
        .with_panel(
            lines(
                "measurements of probes per minute",
                (
                    f"60 * sum by (probe, outcome) (rate(turnout_probe_measurements_total{{{ANY}}}[5m]))",
                    "{{probe}} {{outcome}}",
                ),
                about="Inconclusive measurements neither passed nor failed.",
            )
        )
        .with_panel(
            lines(
                "time since the last tick",
                (f"max by (instance) (turnout_rollout_last_tick_seconds{{{ANY}}})", "{{instance}}"),
                unit="s",
            )
        )
        .with_panel(
            lines(
                "false alarms",
                (
                    f"sum(turnout_rollout_false_alarms_total{{{MODEL}}}) "
                    f"/ sum(turnout_rollout_false_alarm_attempts_total{{{MODEL}}})",
                    "share of the attempts",
                ),
                about="In comparisons of the baseline with itself, if false_alarm_meter is on.",
                unit="percentunit",
            )
        )
    )
