"""The dashboard of shadows and their disagreement with the baseline."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from parts import MODEL, RATE, board, heat, lines, moved, quantile, with_model


def shadow() -> Dashboard:
    """Returns the dashboard."""
    made = with_model(
        board(
            "turnout-shadow",
            "Turnout / Shadow",
            "Shadows, and how their answers differ from the baseline's.",
            ["shadow"],
        )
    )
    each = "{{version}}"
    return (
        made.annotation(moved())
        .with_panel(
            lines(
                "agreement",
                (f"version:turnout_shadow_agreement:ratio_rate15m{{{MODEL}}}", "{{version}} last 15 min"),
                (f"min by (version) (turnout_shadow_agreement_ratio{{{MODEL}}})", "{{version}} since its start"),
                about="The second is corrected for the baseline's own noise, and that of the replica with the lowest.",
                unit="percentunit",
                highest=1,
                lowest=None,
            )
        )
        .with_panel(
            lines(
                "disagreement beyond the noise",
                (f"version:turnout_shadow_disagreement:beyond_noise_ratio_rate15m{{{MODEL}}}", each),
                (f"avg by (version) (turnout_shadow_noise_ratio{{{MODEL}}})", "{{version}} noise"),
                unit="percentunit",
                dashed="noise",
            )
        )
        .with_panel(
            lines(
                "copies by outcome",
                (
                    f"sum by (version, outcome) (rate(turnout_shadow_requests_total{{{MODEL}}}{RATE}))",
                    "{{version}} {{outcome}}",
                ),
                unit="reqps",
            )
        )
        .with_panel(
            lines(
                "outputs that disagree",
                (
                    f"sum by (version, output, kind) (rate(turnout_shadow_mismatch_total{{{MODEL}}}{RATE}))",
                    "{{version}} {{output}} {{kind}}",
                ),
                unit="cps",
            )
        )
        .with_panel(
            lines(
                "copies that were not run",
                (
                    f"sum by (version, reason) (rate(turnout_shadow_dropped_total{{{MODEL}}}{RATE}))",
                    "{{version}} {{reason}}",
                ),
                about="Live requests have priority: copies are dropped before they affect them.",
                unit="reqps",
            )
        )
        .with_panel(
            lines("p90 of the lag", (quantile(0.9, "turnout_shadow_lag_seconds", "version", MODEL), each), unit="s")
        )
        .with_panel(
            heat(
                "largest difference of a copy",
                f"sum by (le) (increase(turnout_shadow_abs_difference_bucket{{{MODEL}}}{RATE}))",
                about="Absolute, over all outputs.",
                unit="short",
                width=24,
            )
        )
    )
