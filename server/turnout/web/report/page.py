"""Renders a rollout's report: a self-contained HTML page that needs no network, and JavaScript only for its plots."""

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from itertools import accumulate
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from turnout.telemetry.histogram import LATENCY_BOUNDS
from turnout.text.quantities import number_text, seconds_text
from turnout.text.shares import share_text
from turnout.web.report.colours import version_colours
from turnout.web.report.explain import explain
from turnout.web.report.formatting import duration_text, ticked, time_text
from turnout.web.report.replay import Latency, Replay

_LEAST_E, _MOST_E = 1e-2, 1e12
"""The range of the logarithmic axis. The difference between e-values below it does not matter."""


def templates(package: str) -> Environment:
    """Returns the templates of a package: all text is escaped, and a name that is not given is an error."""
    environment = Environment(
        loader=PackageLoader(package, "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": share_text,
        "duration": duration_text,
        "evidence": number_text,
        "ticked": ticked,
        "time": time_text,
    }
    return environment


_environment = templates("turnout.web.report")


def render(replay: Replay, versions: Iterable[str] = ()) -> str:
    """Returns the page. All external text is escaped, in the markup and in the data.

    With all `versions` of the model, they get the same colours as in the console.
    """
    rollout = replay.rollout
    colours = version_colours(versions, rollout.candidate, rollout.previous)
    took = (rollout.changed_at.ToDatetime() - rollout.started_at.ToDatetime()).total_seconds()
    return _environment.get_template("report.html").render(
        explanation=explain(replay),
        rollout=rollout,
        colours=colours,
        plan=replay.plan,
        plan_json=json.dumps(replay.plan.to_json(), indent=2),
        took=duration_text(took),
        quantiles=list(_quantile_rows(replay)),
        ticks=replay.ticks,
        data=_data(plots(replay, colours)),
        uplot=_static("vendor/uplot/uPlot.iife.min.js"),
        uplot_css=_static("vendor/uplot/uPlot.min.css"),
        palette_css=_static("palette.css"),
        plots_js=_static("rollout-plots.js"),
    )


def plots(replay: Replay, colours: Mapping[str, int]) -> dict[str, Any]:
    """Returns the data of the plots as JSON values, with the colours of the versions.

    These are times in seconds since 1970, e-values, shares of the traffic, and cumulative shares of the latencies.
    """
    rollout, points, (canary, baseline) = replay.rollout, replay.points, replay.latencies
    return {
        "threshold": rollout.threshold,
        "times": [point.time for point in points],
        "combined": [_on_axis(point.combined) for point in points],
        "metrics": {
            metric.name: [_on_axis(point.metrics[number]) for point in points]
            for number, metric in enumerate(replay.plan.evidence_metrics)
        },
        "weights": [point.weight for point in points],
        "bounds": [bound * 1e3 for bound in LATENCY_BOUNDS],
        "latency": {"candidate": _cumulative(canary), "previous": _cumulative(baseline)},
        "candidate": rollout.candidate,
        "previous": rollout.previous,
        "colours": {"candidate": colours[rollout.candidate], "previous": colours[rollout.previous]},
    }


def _quantile_rows(replay: Replay) -> Iterator[tuple[str, str, str]]:
    """Yields rows of latency quantiles of both arms; none if no latencies were recorded."""
    arms = replay.latencies
    if not all(arms):
        return
    yield ("requests", *(f"{sum(arm.values()):,}" for arm in arms))  # type: ignore[misc]  # two arms
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        yield (name, *(_quantile_text(arm, share) for arm in arms))  # type: ignore[misc]  # two arms


def _quantile_text(arm: Latency, share: float) -> str:
    """Returns the range of the bucket that contains a quantile, since a histogram is no more precise."""
    wanted = share * sum(arm.values())
    ordered = sorted(arm)
    for bucket, reached in zip(ordered, accumulate(arm[b] for b in ordered), strict=True):
        if reached >= wanted:
            if bucket >= len(LATENCY_BOUNDS):
                return f"above {seconds_text(LATENCY_BOUNDS[-1])}"
            upper = seconds_text(LATENCY_BOUNDS[bucket])
            return f"{seconds_text(LATENCY_BOUNDS[bucket - 1])} to {upper}" if bucket else f"up to {upper}"
    return ""


def _cumulative(arm: Latency) -> list[float]:
    """Returns, for each bound, the share of requests whose latency is at most that bound."""
    total = sum(arm.values())
    return [n / total for n in accumulate(arm.get(i, 0) for i in range(len(LATENCY_BOUNDS)))] if total else []


def _on_axis(value: float) -> float:
    return min(max(value, _LEAST_E), _MOST_E)


def _data(body: Mapping[str, Any]) -> Markup:
    """Returns JSON for a script element, escaped so that it cannot close the element."""
    text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704 - escaped


def _static(name: str) -> Markup:
    return Markup((files("turnout.web") / "static" / name).read_text())  # noqa: S704 - part of the package
