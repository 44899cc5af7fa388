"""Shows an active rollout: a live view on a terminal, otherwise a line for each event."""

import json
import time
from collections.abc import Sequence

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from turnout.cli.connection import Server
from turnout.cli.messages import message_body
from turnout.cli.output import CommandOutput, table
from turnout.cli.rollout.follow import follow
from turnout.cli.rollout.probe_view import measured_table
from turnout.cli.rollout.view import bar, event_line, events_table, state_text
from turnout.cli.terminal_text import escaped, printable
from turnout.rollout.plan import Plan
from turnout.text.quantities import number_text
from turnout.text.shares import share_text
from turnout.web.report.formatting import duration_text
from turnout.web.report.replay import read_plan_json
from turnout_proto.v1 import rollout_pb2 as pb

_BAR = 22
_GAP = 3
"""Number of spaces between two columns of a table."""
_FEWEST_EVENTS = 3
_REFRESHES_A_SECOND = 4
_EARLY = ("pending", "validating")
_PROMOTED = ("promoting", "watching", "succeeded")
_TIMED = ("shadowing", "soaking", "watching")


def watch(
    out: CommandOutput, server: Server, model: str, *, attempt: int = 0, timeout: float | None = None
) -> pb.Rollout:
    """Shows a rollout until it ends, and returns it. Raises the same errors as `follow`, and KeyboardInterrupt."""
    if out.console.is_terminal and not out.as_json:
        return _on_terminal(out, server, model, attempt, timeout)
    return _in_lines(out, server, model, attempt, timeout)


class View:
    """The live view on a terminal.

    Attributes:
        rollout: Latest state of the rollout; None before the server's first answer.
        notice: What is wrong with the connection; "" if nothing is.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.rollout: pb.Rollout | None = None
        self.notice = ""
        self._columns, self._rows = columns, rows
        self._received_at = time.monotonic()

    def take(self, rollout: pb.Rollout) -> None:
        """Replaces the displayed rollout."""
        self.rollout, self._received_at, self.notice = rollout, time.monotonic(), ""

    def __call__(self) -> RenderableType:
        """Returns the current contents of the view."""
        if self.rollout is None:
            return Text("asking the server", "dim")
        r = self.rollout
        plan = read_plan_json(r.plan_json)
        lines: list[RenderableType] = [_header(r), _steps(r, plan), self._time(r), "", _metrics(r, self._columns)]
        if r.probes:
            lines += ["", measured_table(r.probes)]
        lines += [Text(f"paused: {why}", "bold yellow") for why in r.pauses]
        if r.lacking and not r.pauses and r.state == "deciding":
            lines.append(Text(f"lacking: {'; '.join(r.lacking)}", "yellow"))
        if r.verdict:
            lines.append(Text(f"verdict: {r.verdict}", "bold green" if r.state == "succeeded" else "bold red"))
        if self.notice:
            lines.append(Text(self.notice, "bold magenta"))
        free = max(self._rows - len(r.metrics) - len(r.probes) - len(lines) - 6, _FEWEST_EVENTS)
        if r.events:
            lines += ["", events_table(r.events[-free:])]
        return Group(*lines)

    def _time(self, r: pb.Rollout) -> RenderableType:
        weight = f"{share_text(round(r.weight, 4))} of the traffic on {r.candidate}"
        if r.state not in _TIMED or r.soak_seconds <= 0:
            return Text(weight)
        stopped = bool(r.pauses or self.notice)
        passed = min(r.step_seconds + (0.0 if stopped else time.monotonic() - self._received_at), r.soak_seconds)
        left = duration_text(float(round(r.soak_seconds - passed)))
        total = duration_text(r.soak_seconds)
        return table(
            ("", "", ""), [(weight, ProgressBar(r.soak_seconds, passed, width=_BAR), f"{left} left of {total}")]
        )


def _header(r: pb.Rollout) -> Text:
    return Text.assemble(
        (r.model, "bold"), "  ", (r.candidate, "bold cyan"), f" over {r.previous}   ", state_text(r),
        f"   attempt {r.attempt}, epoch {r.epoch}",
    )  # fmt: skip


def _steps(r: pb.Rollout, plan: Plan) -> Text:
    """Returns all stages on one line: completed, current and future ones."""
    names = ["shadow"] if plan.shadow else []
    names += [share_text(step.weight) + (" gate" if step.gate else "") for step in plan.steps]
    names += ["baseline", *(["watch"] if plan.watch_s else [])]
    at, stopped = _position(r, plan), r.state in ("aborting", "rolled_back", "failed", "superseded")
    line = Text()
    for number, name in enumerate(names):
        if number:
            line.append(" ─ ", "dim")
        if number < at or r.state == "succeeded":
            line.append(f"✓ {name}", "green")
        elif number == at and stopped:
            line.append(f"✗ {name}", "bold red")
        elif number == at and r.state not in _EARLY:
            line.append(f"● {name}", "bold cyan")
        else:
            line.append(f"○ {name}", "dim")
    return line


def _position(r: pb.Rollout, plan: Plan) -> int:
    """Returns the index of the current stage, or of the stage in which the rollout ended."""
    first = 1 if plan.shadow else 0
    kinds = [event.kind for event in r.events]
    if r.state == "watching" or (r.state not in _PROMOTED and "watching" in kinds):
        return first + len(plan.steps) + 1
    if r.state in _PROMOTED or "promoting" in kinds:
        return first + len(plan.steps)
    return first + r.step - 1 if r.state in ("ramping", "soaking", "deciding") or "ramping" in kinds else 0


def _metrics(r: pb.Rollout, columns: int) -> RenderableType:
    heads = ("BAD", r.candidate, r.previous, "EVIDENCE AGAINST IT", "")
    counts = [
        (
            m.name, f"{_short(m.canary_bad)}/{_short(m.canary_requests)}",
            "" if m.name == "disagreement" else f"{_short(m.baseline_bad)}/{_short(m.baseline_requests)}",
        )
        for m in r.metrics
    ]  # fmt: skip
    texts = [*counts, ("combined", "", "rolled back at"), heads[:3]]
    taken = sum(max(len(row[i]) for row in texts) + _GAP for i in range(3))
    total = f"{number_text(r.e_value)} of {number_text(r.threshold)}"
    width = min(max(columns - taken - _GAP - len(total) - 1, len(heads[3]) - 1), _BAR)
    rows: list[Sequence[RenderableType]] = [
        (*row, bar(m.e_value, r.threshold, width), number_text(m.e_value))
        for row, m in zip(counts, r.metrics, strict=True)
    ]
    last = (Text("combined", "bold"), "", Text("rolled back at", "dim"), bar(r.e_value, r.threshold, width))
    return table(heads, [*rows, (*last, Text(total, "bold"))])


def _short(count: int) -> str:
    """Returns a count as short text, such as `99,999`, `123k` or `1.23M`."""
    if count < 100_000:
        return f"{count:,}"
    return f"{count / 1e3:.0f}k" if count < 999_500 else f"{count / 1e6:.3g}M"


def _on_terminal(out: CommandOutput, server: Server, model: str, attempt: int, timeout: float | None) -> pb.Rollout:
    view = View(out.console.width, out.console.height)

    def notify(sentence: str) -> None:
        view.notice = sentence

    last = pb.Rollout()
    with Live(get_renderable=view, console=out.console, refresh_per_second=_REFRESHES_A_SECOND):
        for last in follow(server, model, notify, attempt=attempt, timeout=timeout):
            view.take(last)
    return last


def _in_lines(out: CommandOutput, server: Server, model: str, attempt: int, timeout: float | None) -> pb.Rollout:
    def notify(sentence: str) -> None:
        if out.as_json:
            typer.echo(json.dumps({"notice": sentence}))
        out.note(sentence)

    last = pb.Rollout()
    printed: set[tuple[int, int, int, str, str]] = set()
    for last in follow(server, model, notify, attempt=attempt, timeout=timeout):
        for event in last.events:
            mark = (last.attempt, event.time.seconds, event.time.nanos, event.kind, event.text)
            if mark in printed:
                continue
            printed.add(mark)
            body = {"model": last.model, "candidate": last.candidate, "attempt": last.attempt, **message_body(event)}
            body["now"] = {
                "state": last.state, "epoch": last.epoch, "weight": last.weight, "e_value": last.e_value,
                "threshold": last.threshold,
            }  # fmt: skip
            typer.echo(
                escaped(json.dumps(body, ensure_ascii=False)) if out.as_json else printable(event_line(last, event))
            )
    return last
