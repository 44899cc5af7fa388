"""The lifecycle of a version in a server. Pure.

New -> Loading -> Warming -> Ready -> Draining -> Unloaded -> Loading -> ...
       Loading | Warming -> Failed -> Loading -> ...
"""

from enum import StrEnum


class LifecycleState(StrEnum):
    """Lifecycle state of a version."""

    NEW = "new"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    UNLOADED = "unloaded"
    FAILED = "failed"

    @property
    def settled(self) -> bool:
        """Whether the state changes only on request."""
        return self not in _MOVING


_MOVING = {LifecycleState.LOADING, LifecycleState.WARMING, LifecycleState.DRAINING}

TRANSITIONS: frozenset[tuple[LifecycleState, LifecycleState]] = frozenset(
    {
        (LifecycleState.NEW, LifecycleState.LOADING),
        (LifecycleState.LOADING, LifecycleState.WARMING),
        (LifecycleState.WARMING, LifecycleState.READY),
        (LifecycleState.LOADING, LifecycleState.FAILED),
        (LifecycleState.WARMING, LifecycleState.FAILED),
        (LifecycleState.READY, LifecycleState.DRAINING),
        (LifecycleState.DRAINING, LifecycleState.UNLOADED),
        (LifecycleState.UNLOADED, LifecycleState.LOADING),
        (LifecycleState.FAILED, LifecycleState.LOADING),
    }
)


def step(state: LifecycleState, to: LifecycleState) -> LifecycleState:
    """Returns `to` after checking the transition. Raises ValueError if the lifecycle has no such transition."""
    if (state, to) not in TRANSITIONS:
        raise ValueError(f"a version does not go from {state} to {to}")
    return to
