"""Options for the most common fields of a rollout's plan. Other fields go into a plan file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from turnout.cli.durations import read_duration
from turnout.cli.options import OptionGroup, option
from turnout.errors import ConfigError
from turnout.text.shares import read_share


def _option(name: str, metavar: str, text: str) -> Any:
    return option(f"--{name}", metavar, text, rich_help_panel="Plan")


class PlanOptions(OptionGroup):
    """The fields of a plan on the command line, with the names of the plan's fields. None if an option is not given."""

    file: Annotated[Path | None, _option("plan", "FILE", "The plan, in TOML; options override it.")] = None
    steps: Annotated[
        str | None, _option("steps", "SHARE:TIME,...", "Weights and times, such as 1%:5m,5%:10m,25%:15m:gate.")
    ] = None
    shadow: Annotated[
        str | None, _option("shadow", "SHARE:TIME", "Compare copies first, such as 10%:10m; or `off`.")
    ] = None
    metrics: Annotated[
        str | None, _option("metrics", "NAME,...", "What to compare: errors, invalid, p90, p95, p99, stalled, slo.")
    ] = None
    alpha: Annotated[
        float | None, _option("alpha", "CHANCE", "Chance of rolling back a candidate that is not worse.")
    ] = None
    min_requests: Annotated[
        int | None, _option("min-requests", "N", "Minimum number of requests to the candidate in each step.")
    ] = None
    slo_ms: Annotated[float | None, _option("slo-ms", "MS", "Latency objective to compare in addition.")] = None
    on_insufficient: Annotated[
        str | None,
        _option("on-insufficient", "WHAT", "If a deadline passes without enough evidence: pause, abort or promote."),
    ] = None
    on_newer: Annotated[
        str | None, _option("on-newer", "WHAT", "If another rollout is active: refuse, queue, replace or beside.")
    ] = None
    watch_for: Annotated[
        str | None, _option("watch-for", "TIME", "How long to watch the candidate after promotion, such as 30m.")
    ] = None
    holdback: Annotated[
        str | None,
        _option("holdback", "SHARE", "Share that the previous version keeps while the candidate is watched."),
    ] = None
    guards: Annotated[
        list[str] | None,
        _option(
            "guard",
            "NAME=LIMIT",
            "Roll back beyond a limit: error_share=1%, p99_ms=250 or invalid_share=0. Repeatable.",
        ),
    ] = None
    from_broken: Annotated[
        bool, _option("from-broken", "", "The baseline is broken, and the candidate is its fix.")
    ] = False
    probes: Annotated[
        list[str] | None,
        _option(
            "probe",
            "NAME",
            "Run a probe from the server's configuration in each step (see `turnout rollout probe`). Repeatable.",
        ),
    ] = None

    def to_json(self) -> str:
        """Returns the plan as JSON. The server fills in missing fields, and checks the values.

        Raises:
            ConfigError: The file cannot be read.
            InvalidRequest: An option is malformed.
        """
        from turnout.cli.rollout.plan_file import read_guard, read_plan_file, read_shadow, read_steps

        body = {} if self.file is None else read_plan_file(self.file)
        plain = {
            "alpha": self.alpha, "min_requests": self.min_requests, "slo_ms": self.slo_ms,
            "on_insufficient": self.on_insufficient, "on_newer": self.on_newer,
        }  # fmt: skip
        body |= {key: value for key, value in plain.items() if value is not None}
        if self.steps is not None:
            body["steps"] = read_steps(self.steps)
        if self.shadow is not None:
            body["shadow"] = read_shadow(self.shadow, body.get("shadow"))
        if self.metrics is not None:
            body["metrics"] = [name.strip() for name in self.metrics.split(",")]
        if self.watch_for is not None:
            body["watch_s"] = read_duration(self.watch_for)
        if self.holdback is not None:
            body["holdback"] = read_share(self.holdback)
        if self.guards:
            known = body.get("guards")
            body["guards"] = (dict(known) if isinstance(known, Mapping) else {}) | dict(map(read_guard, self.guards))
        if self.from_broken:
            body["from_broken"] = True
        if self.probes:
            known = body.get("probes")
            body["probes"] = list(dict.fromkeys((*(known if isinstance(known, list) else ()), *self.probes)))
        try:
            return json.dumps(body, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the plan has an invalid value: {error}") from None
