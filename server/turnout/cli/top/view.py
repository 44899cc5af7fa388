"""Renders a picture of a server's activity with as many columns and rows as fit the terminal, without side effects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from turnout.cli.output import table
from turnout.cli.rollout.view import state_text
from turnout.cli.top.rates import SHADOW, ActivityRow, Picture
from turnout.text.quantities import count_text, number_text, rate_text, seconds_text
from turnout.text.shares import share_text
from turnout.web.report.formatting import duration_text
from turnout_proto.v1.rollout_pb2 import Rollout

_GAP = 3
"""Number of spaces between two columns of a table."""
_SHORTENED = (("MODEL", 16), ("VERSION", 14))
"""Columns that are shortened first, and the length in characters down to which, before others are dropped."""
_LEAST_MODEL = 12
_NARROW = 60
"""Terminal width in columns below which the header takes two lines."""
_MOST_ROLLOUTS = 6
_HEADINGS = 1
_LEAST_VERSIONS = 2
"""Minimum number of lines for versions. One of them may show how many versions are hidden."""
_NOT_KNOWN = "-"

_STATES = {"ready": "green", "failed": "bold red", "loading": "yellow", "warming": "yellow", "draining": "yellow"}
_CROWDED, _FULL = 0.5, 0.9
"""Fill levels of a queue from which it is shown in yellow and in red."""


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the table of versions.

    Attributes:
        keep: Priority. On a narrow terminal, columns with the lowest priority are dropped first; those with 9 never.
    """

    head: str
    cell: Callable[[ActivityRow], Text]
    keep: int
    right: bool = False


def view(current: Picture, server: str, notice: str, columns: int, rows: int | None) -> RenderableType:
    """Returns the picture of a server's activity for a terminal of this size; with as many rows as needed if `rows` is
    None. `notice` is what is wrong with the connection; "" if nothing is.
    """
    lines: list[RenderableType] = [*_head(current, server, columns), ""]
    rollouts = list(current.rollouts)
    free = None
    if rows is not None:
        left = rows - len(lines) - _HEADINGS - (1 if notice else 0)
        rollouts = rollouts[: max(min(_MOST_ROLLOUTS, rows // 3, left - _LEAST_VERSIONS - 1), 0)]
        free = left - (len(rollouts) + 1 if rollouts else 0)
    some, hidden = _cut(current.rows, free)
    lines.append(_versions(some, columns))
    if hidden:
        lines.append(Text(f"and {hidden} more versions", "dim"))
    if rollouts:
        lines += ["", *map(_rollout, rollouts)]
    if notice:
        lines.append(_line(Text(notice, "bold magenta")))
    return Group(*lines)


def _head(current: Picture, server: str, columns: int) -> Sequence[Text]:
    models = len({row.model for row in current.rows})
    ready = sum(row.state == "ready" for row in current.rows)
    name = Text.assemble(("turnout", "bold"), f" {server}", (", draining", "bold yellow") if current.draining else "")
    facts = [f"{count_text(models, 'model')}, {ready} of {count_text(len(current.rows), 'version')} ready"]
    facts.append(f"up {duration_text(float(round(current.up)))}")
    traffic = Text.assemble((f"{_rate(current.rate)} requests/s", "bold"))
    if current.rate:
        share = (current.failures or 0.0) / current.rate
        traffic.append(f", {_percent(share)} failed", "red" if share else "")
    if current.unrouted:
        traffic.append(f", {_rate(current.unrouted)}/s reached no version", "yellow")
    first = Text("   ").join([name, Text("   ".join(facts))])
    whole = Text("   ").join([first, traffic])
    lines = [whole] if cell_len(whole.plain) <= columns and columns >= _NARROW else [first, traffic]
    return [_line(line) for line in lines]


def _rollout(rollout: Rollout) -> Text:
    """Returns a rollout on one line, the most important facts first."""
    line = Text.assemble(
        "rollout ", (f"{rollout.model} {rollout.candidate}", "bold"), " ", state_text(rollout),
        f"   {share_text(round(rollout.weight, 4))}, step {rollout.step} of {rollout.steps}",
        f"   evidence {number_text(rollout.e_value)} of {number_text(rollout.threshold)}",
        f"   over {rollout.previous}",
    )  # fmt: skip
    if rollout.pauses:
        line.append(f"   {'; '.join(rollout.pauses)}", "yellow")
    return _line(line)


def _line(text: Text) -> Text:
    """Makes `text` a single line, cut off at the width of the terminal."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _versions(rows: Sequence[ActivityRow], columns: int) -> RenderableType:
    """Returns the table of versions, without the columns that do not fit."""
    chosen = list(_COLUMNS)
    cells = {column.head: [column.cell(row) for row in rows] for column in chosen}
    for head, most in _SHORTENED:
        _shorten(cells[head], max(_widest(cells[head]) - max(_width(chosen, cells) - columns, 0), most))
    while _width(chosen, cells) > columns and (least := min(chosen, key=lambda c: c.keep)).keep < 9:
        chosen.remove(least)
    _shorten(cells["MODEL"], max(_widest(cells["MODEL"]) - max(_width(chosen, cells) - columns, 0), _LEAST_MODEL))
    made = table(
        [column.head for column in chosen],
        zip(*(cells[column.head] for column in chosen), strict=True),
        right=[column.head for column in chosen if column.right],
    )
    for column in made.columns:
        column.no_wrap, column.overflow = True, "ellipsis"
    return made


def _width(chosen: Sequence[_Column], cells: dict[str, list[Text]]) -> int:
    return sum(max(_widest(cells[c.head]), len(c.head)) + _GAP for c in chosen) - _GAP


def _widest(cells: Sequence[Text]) -> int:
    return max((cell_len(text.plain) for text in cells), default=0)


def _shorten(cells: Sequence[Text], most: int) -> None:
    for text in cells:
        text.truncate(most, overflow="ellipsis")


def _cut(rows: Sequence[ActivityRow], free: int | None) -> tuple[Sequence[ActivityRow], int]:
    """Returns the rows that fit, and the number of hidden rows. A line is reserved to show this number."""
    if free is None or len(rows) <= free:
        return rows, 0
    return rows[: max(free - 1, 1)], len(rows) - max(free - 1, 1)


def _traffic(row: ActivityRow) -> Text:
    """Returns the roles of a version: first those that the policy gives it, with their weights, then `pinned`."""
    parts = [f"{part.role} {share_text(round(part.weight, 4))}" for part in row.parts if part.weight]
    parts += [part.role for part in row.parts if not part.weight and part.rate]
    return Text(", ".join(parts), "cyan" if any(part.role in ("canary", SHADOW) for part in row.parts) else "")


def _failed(row: ActivityRow) -> Text:
    share = row.failed_share
    return Text(_NOT_KNOWN if share is None else _percent(share), "bold red" if share else "")


def _queue(row: ActivityRow) -> Text:
    style = "bold red" if row.queue_fill >= _FULL else "yellow" if row.queue_fill >= _CROWDED else ""
    return Text(f"{row.queue_depth:,}", style)


_COLUMNS = (
    _Column("MODEL", lambda row: Text(row.model), 9),
    _Column("VERSION", lambda row: Text(row.version, "bold"), 9),
    _Column("STATE", lambda row: Text(row.state, _STATES.get(row.state, "dim")), 5),
    _Column("TRAFFIC", _traffic, 6),
    _Column("REQ/S", lambda row: Text(_rate(row.rate)), 9, right=True),
    _Column("P50", lambda row: Text(_time(row.p50)), 3, right=True),
    _Column("P99", lambda row: Text(_time(row.p99)), 8, right=True),
    _Column("FAILED", _failed, 7, right=True),
    _Column("QUEUE", _queue, 4, right=True),
    _Column("RUNNING", lambda row: Text(f"{max(row.inflight - row.queue_depth, 0):,}"), 2, right=True),
)


def _rate(rate: float | None) -> str:
    return _NOT_KNOWN if rate is None else rate_text(rate)


def _time(seconds: float | None) -> str:
    """Returns a latency with three digits, such as `430 µs`, `12.5 ms` or `1.25 s`."""
    return _NOT_KNOWN if seconds is None else seconds_text(seconds)


def _percent(share: float) -> str:
    """Returns a share of failures. It is 0% only if there were none."""
    if share == 0:
        return "0%"
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"
