"""Rollouts of a real model on a server process under load: how and when each ends, and its effect on clients."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from magika.load import USERS
from magika.process import serving
from magika.rollouts import ENVIRONMENT, LATENCY, PLAN, RATE, SCENES, Outcome, play, publish_all

TITLE = "rollouts of magika, each under load until it ends"


class Played:
    """A row with the outcome of a scene.

    Attributes:
        outcome: The outcome.
        met: Whether the rollout ended as expected, and for the expected reason.
    """

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.met = outcome.as_expected

    def body(self) -> Mapping[str, Any]:
        """Returns the row as JSON values."""
        scene, rollout, harm = self.outcome.scene, self.outcome.rollout, self.outcome.harm
        return {
            "table": TITLE, "scene": scene.title, "baseline": scene.baseline, "candidate": scene.candidate,
            "plan": json.loads(rollout.plan_json), "state": rollout.state, "verdict": rollout.verdict,
            "seconds": self.outcome.seconds, "e_value": rollout.e_value, "threshold": rollout.threshold,
            "requests": harm.requests, "answered_by_candidate": harm.candidates, "errors": dict(harm.errors),
            "wrong": harm.wrong, "slow": harm.slow, "slow_at_candidate": harm.slow_candidates,
            "slow_bound_seconds": harm.bound, "met": self.met,
        }  # fmt: skip


def measure(scratch: Path) -> list[Played]:
    """Runs the five scenes, each on a new server process. Here, the good candidate is also checked for its latency."""
    root, played = publish_all(scratch), []
    good = replace(SCENES["good"], plan=PLAN | {"metrics": LATENCY})
    for scene in ({**SCENES, "good": good}).values():
        with serving(root, ENVIRONMENT, show=False, kill=scene.lasting) as server:
            played.append(Played(play(server, scene)))
    return played


def show(rows: Sequence[Played], *, as_json: bool) -> None:
    """Prints the plan and a table, or one JSON object per row."""
    if as_json:
        for row in rows:
            print(json.dumps(row.body()), flush=True)
        return
    steps = ", ".join(f"{step['weight']:.0%} for {step['soak_s']} s" for step in PLAN["steps"])
    table = Table(title=TITLE, title_justify="left", show_lines=True)
    for heading in ("candidate", "ended", "after", "verdict", "failed", "wrong", "late", "requests"):
        table.add_column(heading, justify="right" if heading in ("after", "failed", "wrong", "late") else "left")
    for row in rows:
        scene, rollout, harm = row.outcome.scene, row.outcome.rollout, row.outcome.harm
        table.add_row(
            f"{scene.title}: {scene.candidate} over {scene.baseline}",
            f"[{'green' if row.met else 'red'}]{rollout.state.replace('_', ' ')}[/]",
            f"{row.outcome.seconds:.1f} s", rollout.verdict, str(sum(harm.errors.values())), str(harm.wrong),
            f"{harm.slow} (candidate {harm.slow_candidates}) > {harm.bound * 1e3:.0f} ms",
            f"{harm.requests} (candidate {harm.candidates})",
        )  # fmt: skip
    console = Console(width=150)
    console.print(table)
    console.print(
        f"Plan: {steps}; metrics {', '.join(PLAN['metrics'])}; alpha {PLAN['alpha']}, beta {PLAN['beta']}; looked at "
        f"each {ENVIRONMENT['TURNOUT_ROLLOUT__TICK_S']} s; before it a shadow stage for the one with other answers. "
        f"Load: at most {RATE:.0f} requests a second, half of them with the key of one of {USERS} users. "
        "After: since the candidate's first request or copy. Failed: had no answer. "
        "Wrong: not what the good model of that version answers. "
        "Late: later than the p99 that the same clients saw before the rollout; 1 % would be so without one.",
        style="dim",
    )
