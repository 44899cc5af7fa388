"""The dashboard that compares the versions of a model."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from parts import MODEL, RATE, VERSION, board, heat, lines, moved, quantile, variable, with_model


def model() -> Dashboard:
    """Returns the dashboard."""
    made = with_model(board("turnout-model", "Turnout / Model", "The versions of one model, side by side.", ["model"]))
    each = "{{version}}"
    return (
        made.with_variable(variable("version", f"label_values(turnout_version_info{{{MODEL}}}, version)", several=True))
        .annotation(moved())
        .with_panel(lines("requests", (f"version:turnout_requests:rate5m{{{VERSION}}}", each), unit="reqps"))
        .with_panel(
            lines(
                "requests by role",
                (f"sum by (version, role) (rate(turnout_requests_total{{{VERSION}}}{RATE}))", "{{version}} {{role}}"),
                unit="reqps",
            )
        )
        .with_panel(
            lines(
                "requests by code",
                (
                    f"sum by (version, code) (rate(turnout_requests_total{{{VERSION}}}{RATE}) > 0)",
                    "{{version}} {{code}}",
                ),
                unit="reqps",
            )
        )
        .with_panel(
            lines("errors", (f"version:turnout_request_errors:ratio_rate5m{{{VERSION}}}", each), unit="percentunit")
        )
        .with_panel(
            lines(
                "slower than the objective",
                (
                    f"sum by (version, threshold) (rate(turnout_slo_exceeded_total{{{VERSION}}}{RATE})) "
                    f"/ on (version) group_left () "
                    f"sum by (version) (rate(turnout_request_duration_seconds_count{{{VERSION}}}{RATE}))",
                    "{{version}} {{threshold}} s",
                ),
                about="Exact counts by the server.",
                unit="percentunit",
            )
        )
        .with_panel(
            lines(
                "share of the traffic",
                (
                    f'avg by (version, role) (turnout_traffic_weight{{{VERSION},kind="applied"}})',
                    "{{version}} {{role}}",
                ),
                unit="percentunit",
                highest=1,
            )
        )
        .with_panel(lines("p50", (f"version:turnout_request_duration_seconds:p50_rate5m{{{VERSION}}}", each), unit="s"))
        .with_panel(lines("p90", (f"version:turnout_request_duration_seconds:p90_rate5m{{{VERSION}}}", each), unit="s"))
        .with_panel(lines("p99", (f"version:turnout_request_duration_seconds:p99_rate5m{{{VERSION}}}", each), unit="s"))
        .with_panel(
            lines(
                "p90 of the queue",
                (quantile(0.9, "turnout_queue_duration_seconds", "version", VERSION), each),
                unit="s",
            )
        )
        .with_panel(
            lines(
                "p90 of the run",
                (quantile(0.9, "turnout_compute_duration_seconds", "version", VERSION), each),
                about="The run of the whole batch.",
                unit="s",
            )
        )
        .with_panel(
            lines(
                "rows per batch",
                (
                    f"sum by (version) (rate(turnout_batch_size_sum{{{VERSION}}}{RATE})) "
                    f"/ sum by (version) (rate(turnout_batch_size_count{{{VERSION}}}{RATE}))",
                    each,
                ),
                (
                    f"sum by (version) (increase(turnout_batching_demoted_total{{{VERSION}}}{RATE}))",
                    "{{version}} demoted",
                ),
                about="The mean, and replicas that stopped batching because an output had the wrong number of rows.",
            )
        )
        .with_panel(lines("in the queue", (f"sum by (version) (turnout_queue_depth{{{VERSION}}})", each)))
        .with_panel(
            lines(
                "fill of the queue",
                (f"max by (version) (turnout_queue_fill_ratio{{{VERSION}}})", each),
                about="The fullest queue. At 100 %, requests are rejected.",
                unit="percentunit",
            )
        )
        .with_panel(lines("in flight", (f"sum by (version) (turnout_inflight_requests{{{VERSION}}})", each)))
        .with_panel(
            heat(
                "latency of $version",
                f"sum by (le) (increase(turnout_request_duration_seconds_bucket{{{VERSION}}}{RATE}))",
                about="Requests by their duration.",
            )
            .repeat("version")
            .max_per_row(3)
        )
    )
