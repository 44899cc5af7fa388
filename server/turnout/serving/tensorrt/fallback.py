"""Decides how a version is served if its TensorRT engines cannot be built. Pure.

building -> built                                        it is served by TensorRT
         -> failed | late -> the next provider in its settings, with the reason as a note
                          -> Failed, if there is none
         -> given up                                     the server stops
"""

from collections.abc import Sequence
from dataclasses import dataclass

TENSORRT = "tensorrt"
BUILDING = "building TensorRT engines"
WAITING = "waiting for its turn to build TensorRT engines"


@dataclass(frozen=True, slots=True)
class Fallback:
    """How a version is served that should run on TensorRT but does not.

    Attributes:
        providers: Providers to load it with, in the order of its settings.
        reason: Human-readable reason.
    """

    providers: tuple[str, ...]
    reason: str


def fallback(wanted: Sequence[str], why: str) -> Fallback | None:
    """Returns how a version is served if its engines cannot be built; None if its settings name no other provider.

    Args:
        wanted: Providers in its settings, such as `("tensorrt", "cuda", "cpu")`.
        why: What went wrong.
    """
    rest = tuple(name for name in wanted if name != TENSORRT)
    return Fallback(rest, f"not used: {why}") if rest else None


def builds_engines(wanted: Sequence[str] | str) -> bool:
    """Returns whether TensorRT is the first provider in a version's settings."""
    return wanted != "auto" and bool(wanted) and str(wanted[0]) == TENSORRT


def allowance(wanted: Sequence[str] | str, build_seconds: float) -> float:
    """Returns the additional seconds allowed for loading, or for a first run, if TensorRT builds engines."""
    return build_seconds if builds_engines(wanted) else 0.0
