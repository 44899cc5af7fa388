"""What a benchmark reports: rows with a ratio, its target, and the windows it was measured in."""

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
    """One comparison.

    Attributes:
        name: What is compared.
        ratio: Median over the windows of ours by theirs.
        low, high: The least and greatest ratio of a window.
        target: What the ratio should be; None for a row that only shows what to compare others with.
        at_least: True where more is better.
        ours, theirs: Medians, with their unit.
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
        """Whether the median meets the target; True if there is none."""
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
    """Measures both in turn, `windows` times, and compares them window by window: drift of the machine cancels."""
    return compare_pairs(name, take_turns(theirs, ours, windows), target, unit, at_least=at_least)


def take_turns(one: Callable[[], T], other: Callable[[], T], count: int) -> list[tuple[T, T]]:
    """Measures both `count` times; who comes first takes turns too. Returns what each pair of windows saw."""
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
    """Compares what was measured in pairs of adjacent windows, theirs before ours."""
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
    """Prints a table, or one JSON object a row."""
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
