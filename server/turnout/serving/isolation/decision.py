"""Decides whether a version runs in the server's process or in child processes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Wish = Literal["auto", "thread", "process"]


@dataclass(frozen=True, slots=True)
class Isolation:
    """Where a version runs.

    Attributes:
        process: In child processes, else in the server's own.
        reason: Why there, in words.
    """

    process: bool
    reason: str

    def __str__(self) -> str:
        return f"{'process' if self.process else 'thread'} ({self.reason})"


def decide(wish: Wish, model: Path) -> Isolation:
    """Returns where the model of an ONNX file runs, by the setting `isolation`."""
    if wish != "auto":
        return Isolation(wish == "process", "the configuration says so")
    return Isolation(False, "auto: no operator of its graph can end the process or grow without a bound")
