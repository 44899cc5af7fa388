"""Decides how a version is served if its TensorRT engines cannot be built. Pure.

building -> built                                        it is served by TensorRT
         -> failed | late -> the next provider in its settings, with the reason as a note
                          -> Failed, if there is none
         -> given up                                     the server stops
"""

from collections.abc import Sequence

TENSORRT = "tensorrt"
BUILDING = "building TensorRT engines"
WAITING = "waiting for its turn to build TensorRT engines"


def next_providers(wanted: Sequence[str]) -> tuple[str, ...]:
    """Returns the providers, in order, that serve a version whose engines cannot be built; () if there is none.

    `wanted` are the providers in its settings, such as `("tensorrt", "cuda", "cpu")`.
    """
    return tuple(name for name in wanted if name != TENSORRT)


def builds_engines(wanted: Sequence[str] | str) -> bool:
    """Returns whether TensorRT is the first provider in a version's settings."""
    return wanted != "auto" and bool(wanted) and wanted[0] == TENSORRT


def allowance(wanted: Sequence[str] | str, build_seconds: float) -> float:
    """Returns the additional seconds allowed for loading if TensorRT builds engines."""
    return build_seconds if builds_engines(wanted) else 0.0
