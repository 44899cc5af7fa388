"""What becomes of a version whose TensorRT engines cannot be built. Pure.

building -> built                                        it is served by TensorRT
         -> failed | late -> the next provider that its settings name, which is told with the reason
                          -> Failed, where they name none
         -> given up                                     the server stops
"""

from collections.abc import Sequence
from dataclasses import dataclass

TENSORRT = "tensorrt"
BUILDING = "building TensorRT engines"
WAITING = "waiting for its turn to build TensorRT engines"


@dataclass(frozen=True, slots=True)
class Fallback:
    """How a version is served that does not run on TensorRT although it should.

    Attributes:
        providers: That it is loaded with, in the order of its settings.
        reason: Why, in words.
    """

    providers: tuple[str, ...]
    reason: str


def fallback(wanted: Sequence[str], why: str) -> Fallback | None:
    """Returns how a version is served whose engines cannot be built; None if its settings name nothing else.

    Args:
        wanted: Providers that its settings name, such as `("tensorrt", "cuda", "cpu")`.
        why: What went wrong.
    """
    rest = tuple(name for name in wanted if name != TENSORRT)
    return Fallback(rest, f"not used: {why}") if rest else None


def builds_engines(wanted: Sequence[str] | str) -> bool:
    """Tells whether TensorRT is the first of the providers that a version's settings name."""
    return wanted != "auto" and bool(wanted) and str(wanted[0]) == TENSORRT


def allowance(wanted: Sequence[str] | str, build_seconds: float) -> float:
    """Returns the seconds that loading, or a first run, may take beside what it may take of other providers."""
    return build_seconds if builds_engines(wanted) else 0.0


def progress(stage: str, seconds: float) -> str:
    """Returns what is told of a stage that goes on: "building TensorRT engines, for 2 min 10 s"."""
    whole = int(seconds)
    minutes, rest = divmod(whole, 60)
    return f"{stage}, for {f'{minutes} min ' if minutes else ''}{rest} s"
