"""The dashboard of all models: requests, errors, loaded versions and rollouts."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from parts import ANY, board, lines, number, rows


def overview() -> Dashboard:
    """Returns the dashboard."""
    firing = "ALERTS{alertstate='firing',alertname=~'Turnout.*'}"
    return (
        board("turnout-overview", "Turnout / Overview", "All models of one job.")
        .with_panel(number("servers", f"sum(up{{{ANY}}})", about="Servers that answer scrapes."))
        .with_panel(number("requests", f"sum(model:turnout_requests:rate5m{{{ANY}}})", unit="reqps"))
        .with_panel(number("versions in service", f'count(turnout_version_info{{{ANY},state="ready"}}) or vector(0)'))
        .with_panel(number("failed loads", f"count(turnout_version_failed{{{ANY}}}) or vector(0)"))
        .with_panel(number("rollouts", f"count(turnout_rollout_state{{{ANY}}}) or vector(0)", about="Active rollouts."))
        .with_panel(number("firing alerts", f"count({firing}) or vector(0)", about="Alerts that are firing."))
        .with_panel(lines("requests by model", (f"model:turnout_requests:rate5m{{{ANY}}}", "{{model}}"), unit="reqps"))
        .with_panel(
            lines(
                "errors by version",
                (f"version:turnout_request_errors:ratio_rate5m{{{ANY}}}", "{{model}} {{version}}"),
                about="Share of the requests that failed with a code that is not the caller's fault.",
                unit="percentunit",
            )
        )
        .with_panel(
            lines(
                "p99 by version",
                (f"version:turnout_request_duration_seconds:p99_rate5m{{{ANY}}}", "{{model}} {{version}}"),
                unit="s",
            )
        )
        .with_panel(
            lines(
                "error budget",
                (f"model:turnout_request_errors:burnrate1h{{{ANY}}}", "{{model}}"),
                about="How many times too fast the month's budget is spent. 14.4 is an emergency.",
            )
        )
        .with_panel(
            lines(
                "latency budget",
                (f"model_threshold:turnout_slo_exceeded:burnrate1h{{{ANY}}}", "{{model}} {{threshold}} s"),
                about="The same for requests slower than the model's latency objective (slo_ms).",
            )
        )
        .with_panel(
            lines(
                "epochs apart",
                (
                    f"max by (model) (turnout_policy_epoch{{{ANY}}}) - min by (model) (turnout_policy_epoch{{{ANY}}})",
                    "{{model}}",
                ),
                about="Between the most and the least recent policy of the replicas. Normally 0, except for moments.",
            )
        )
        .with_panel(
            rows(
                "versions",
                f"max by (model, version, state, digest) (turnout_version_info{{{ANY}}})",
                ["model", "version", "state", "digest"],
            )
        )
        .with_panel(rows("alerts", firing, ["alertname", "severity", "model", "version", "instance"]))
    )
