"""Shows the results of gates as a table."""

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from turnout.cli.output import table

if TYPE_CHECKING:
    from turnout.registry.gates.gate import GateReport

_STYLES = {"passed": "green", "warned": "yellow", "failed": "bold red", "skipped": "dim"}


def gates_table(report: "GateReport") -> RenderableType:
    """Returns a table with a row for each gate."""
    return table(
        ("", "", ""),
        (
            (one.gate, Text(one.verdict.outcome, _STYLES[one.verdict.outcome]), one.verdict.evidence)
            for one in report.results
        ),
    )
