"""The results of benchmarks: rows with a ratio, its target, and its range over the windows."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from rich.console import Console
from rich.table import Table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """A comparison of Turnout with a reference.

    Attributes:
        name: Description of the measurement.
        ratio: Ratio of Turnout to the reference, median over the windows.
        low, high: Lowest and highest ratio of a window.
        target: Target of the ratio; None for a row that is only there for comparison.
        at_least: Whether the target is a minimum, because more is better, rather than a maximum.
        ours, theirs: Medians with their unit, as text.
    """

    name: str
    ratio: float
    low: float
    high: float
    target: float | None
    at_least: bool
    ours: str
    theirs: str

    @property
    def met(self) -> bool:
        """Whether the ratio meets the target; True if there is none."""
        if self.target is None:
            return True
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


def compare(
    name: str,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    windows: int,
    target: float | None,
    unit: str = "requests/s",
    *,
    at_least: bool = True,
) -> Row:
    """Measures both alternately, `windows` times, and compares them window by window, which cancels out drift."""
    return compare_pairs(name, take_turns(theirs, ours, windows), target, unit, at_least=at_least)


def take_turns(one: Callable[[], T], other: Callable[[], T], count: int) -> list[tuple[T, T]]:
    """Measures both `count` times, alternating which comes first. Returns the results of each pair of windows."""
    pairs = []
    for index in range(count):
        if index % 2:
            last, first = other(), one()
        else:
            first, last = one(), other()
        pairs.append((first, last))
    return pairs


def compare_pairs(
    name: str,
    pairs: Sequence[tuple[float, float]],
    target: float | None,
    unit: str = "requests/s",
    *,
    at_least: bool = True,
) -> Row:
    """Returns the comparison of pairs of adjacent windows, each with the reference first."""
    ratios = sorted(mine / other for other, mine in pairs)
    return Row(
        name,
        statistics.median(ratios),
        ratios[0],
        ratios[-1],
        target,
        at_least,
        f"{statistics.median(mine for _, mine in pairs):,.1f} {unit}",
        f"{statistics.median(other for other, _ in pairs):,.1f} {unit}",
    )


def show(title: str, rows: Sequence[Row], *, as_json: bool) -> None:
    """Prints a table, or one JSON object per row."""
    if as_json:
        for row in rows:
            print(json.dumps({"table": title} | asdict(row) | {"met": row.met}), flush=True)
        return
    table = Table(title=title, title_justify="left")
    for heading in ("", "ratio", "windows", "target", "Turnout", "against"):
        table.add_column(heading)
    for row in rows:
        colour = "green" if row.met else "red"
        sign = ">=" if row.at_least else "<="
        target = f"{sign} {row.target:.2f}" if row.target is not None else ""
        windows = f"{row.low:.2f} - {row.high:.2f}"
        ratio = f"[{colour}]{row.ratio:.3f}[/]"
        table.add_row(row.name, ratio, windows, target, row.ours, row.theirs)
    Console(width=130).print(table)
