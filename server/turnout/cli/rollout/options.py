"""The commonest fields of a rollout's plan, as options. What is not named here goes into a plan file."""

from pathlib import Path
from typing import Annotated

import typer

_PLAN = "Plan"
"""Panel of the help."""

PlanOption = Annotated[
    Path | None,
    typer.Option(
        "--plan", metavar="FILE", help="TOML; options go before it.", show_default=False, rich_help_panel=_PLAN
    ),
]
StepsOption = Annotated[
    str | None,
    typer.Option(
        "--steps", metavar="SHARE:TIME,...", help="As in 1%:5m,5%:10m,25%:15m:gate.", show_default=False,
        rich_help_panel=_PLAN,
    ),
]  # fmt: skip
ShadowOption = Annotated[
    str | None,
    typer.Option(
        "--shadow", metavar="SHARE:TIME", help="Compare copies first, as in 10%:10m; or `off`.", show_default=False,
        rich_help_panel=_PLAN,
    ),
]  # fmt: skip
MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="NAME,...",
        help="Of errors, invalid, p90, p95, p99, stalled, slo.",
        show_default=False,
        rich_help_panel=_PLAN,
    ),
]
AlphaOption = Annotated[
    float | None,
    typer.Option(
        "--alpha", metavar="CHANCE", help="Of taking back one that is not worse.", show_default=False,
        rich_help_panel=_PLAN,
    ),
]  # fmt: skip
RequestsOption = Annotated[
    int | None,
    typer.Option(
        "--min-requests", metavar="N", help="Of the candidate, in each step.", show_default=False, rich_help_panel=_PLAN
    ),
]
SloOption = Annotated[
    float | None,
    typer.Option(
        "--slo-ms", metavar="MS", help="Latency objective, looked at too.", show_default=False, rich_help_panel=_PLAN
    ),
]
InsufficientOption = Annotated[
    str | None,
    typer.Option(
        "--on-insufficient", metavar="WHAT", help="Too little to see at a deadline: pause, abort or promote.",
        show_default=False, rich_help_panel=_PLAN,
    ),
]  # fmt: skip
NewerOption = Annotated[
    str | None,
    typer.Option(
        "--on-newer", metavar="WHAT", help="Another one runs: refuse, queue, replace or beside.", show_default=False,
        rich_help_panel=_PLAN,
    ),
]  # fmt: skip
WatchForOption = Annotated[
    str | None,
    typer.Option(
        "--watch-for", metavar="TIME", help="After promotion, as in 30m.", show_default=False, rich_help_panel=_PLAN
    ),
]
HoldbackOption = Annotated[
    str | None,
    typer.Option(
        "--holdback", metavar="SHARE", help="That the version before keeps meanwhile.", show_default=False,
        rich_help_panel=_PLAN,
    ),
]  # fmt: skip
GuardsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--guard", metavar="NAME=LIMIT", show_default=False, rich_help_panel=_PLAN,
        help="Take it back beyond a limit: error_share=1%, p99_ms=250 or invalid_share=0. Repeatable.",
    ),
]  # fmt: skip
FromBrokenOption = Annotated[
    bool,
    typer.Option(
        "--from-broken", metavar="", help="The baseline is broken, and this is its fix.", rich_help_panel=_PLAN
    ),
]
ProbesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--probe", metavar="NAME", show_default=False, rich_help_panel=_PLAN,
        help="Ask a probe of the server's configuration in each step; `turnout rollout probe` lists them. Repeatable.",
    ),
]  # fmt: skip
