"""Decides whether a version runs in the server's process or in child processes. Pure."""

from dataclasses import dataclass
from typing import Literal

from turnout.registry.onnx.graph import ModelGraph
from turnout.serving.isolation.hazards import find_hazard

Wish = Literal["auto", "thread", "process"]


@dataclass(frozen=True, slots=True)
class Isolation:
    """Where a version runs.

    Attributes:
        process: Whether it runs in child processes, rather than in the server's process.
        reason: Human-readable reason.
    """

    process: bool
    reason: str

    def __str__(self) -> str:
        return f"{'process' if self.process else 'thread'} ({self.reason})"


IN_THIS_PROCESS = Isolation(False, "nothing was decided")


def decide(wish: Wish, graph: ModelGraph) -> Isolation:
    """Returns where a model runs, according to the setting `isolation` and its graph."""
    if wish != "auto":
        return Isolation(wish == "process", "the configuration says so")
    hazard = find_hazard(graph)
    if hazard is None:
        return Isolation(False, "auto: nothing in its graph lets a request end the process")
    return Isolation(True, f"auto: {hazard}")
