"""The stages of a rollout and the progress of its evidence, for the console's pages. Pure."""

import math
from dataclasses import dataclass

from turnout.rollout.machine.attempt import STEPPING
from turnout.rollout.plan import Plan
from turnout.text.shares import share_text
from turnout.web.report.formatting import duration_text
from turnout_proto.v1 import rollout_pb2 as pb

_PROMOTED = ("promoting", "watching")
_ENDING = ("aborting", "rolled_back", "superseded", "failed")
_LEAST_EVIDENCE = 0.01


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a rollout.

    Attributes:
        name: The candidate's share of the traffic: `10% shadow`, `5%`, `baseline`.
        note: Minimum duration of the stage.
        progress: `done`, `now`, `ended` (the rollout ended in this stage), `ahead`, or `skipped` (never reached).
    """

    name: str
    note: str
    progress: str


def stages(plan: Plan, rollout: pb.Rollout) -> tuple[Stage, ...]:
    """Returns the stages of a rollout, in order."""
    names = [(f"{share_text(plan.shadow.rate)} shadow", plan.shadow.duration_s)] if plan.shadow else []
    first = len(names)
    names += [(share_text(step.weight), step.soak_s) for step in plan.steps]
    names.append(("baseline", plan.watch_s))
    last = len(names) - 1
    reached = _reached(rollout, first, last)
    return tuple(
        Stage(name, duration_text(seconds), _progress(index, reached, rollout.state))
        for index, (name, seconds) in enumerate(names)
    )


def _reached(rollout: pb.Rollout, first: int, last: int) -> int:
    """Returns the index of the current stage, or of the last stage of an ended rollout; -1 before the first."""
    # The state of an ended rollout does not show its last stage, but its events do.
    been = {event.kind for event in rollout.events} if rollout.state in _ENDING else {rollout.state}
    if been.intersection((*_PROMOTED, "succeeded")):
        return last
    if been.intersection(STEPPING):
        return first + rollout.step - 1
    return 0 if "shadowing" in been else -1


def _progress(index: int, reached: int, state: str) -> str:
    if state == "succeeded" or index < reached:
        return "done"
    if index > reached:
        return "skipped" if state in _ENDING else "ahead"
    return "ended" if state in _ENDING else "now"


def reach(e_value: float, threshold: float) -> float:
    """Returns the position of evidence between 0.01 and `threshold` on a logarithmic scale, as a number from 0 to 1."""
    if not e_value > _LEAST_EVIDENCE:
        return 0.0
    whole = math.log(threshold / _LEAST_EVIDENCE)
    return min(math.log(e_value / _LEAST_EVIDENCE) / whole, 1.0)
