"""Which versions should be loaded, and what to do about it. Pure.

A decision is a function of a snapshot: what exists, what was declared and configured and asked for, what is loaded now.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from semver import Version

from turnout.config import Load, LoadAll, LoadLatest
from turnout.registry.standing import Declarations, Standing
from turnout.registry.versions import highest_first
from turnout.serving.lifecycle import LifecycleState

Resolve = Callable[[str, Sequence[Version], Declarations], Version | None]
"""Returns the version that a selector names among those that exist, or None; `turnout.routing.selector` has it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of one model.

    Attributes:
        load: As configured.
        asked: What operators asked of single versions since the server started: True to load, False to unload. It goes
            before `load`.
        yanked: Yanked versions are kept where they would be if they were not, for pins to them; they take no other's
            place.
    """

    load: Load
    asked: Mapping[Version, bool]
    yanked: bool = False


@dataclass(frozen=True, slots=True)
class Moves:
    """What to do about one model now."""

    load: tuple[Version, ...] = ()
    unload: tuple[Version, ...] = ()


def wanted(wish: Wish, versions: Sequence[Version], declarations: Declarations, resolve: Resolve) -> set[Version]:
    """Returns the versions that should be loaded.

    Args:
        wish: What is configured and was asked for.
        versions: That exist.
        declarations: Standings and tags; a yanked version is loaded only where an operator asks for it, or where they
            are wanted.
        resolve: Finds what a selector of the configuration names.
    """
    eligible = [v for v in versions if declarations.standing(v) is not Standing.YANKED]
    chosen = _configured(wish.load, eligible, declarations, resolve)
    if wish.yanked:
        chosen |= _configured(wish.load, versions, declarations, resolve)
    for version, asked in wish.asked.items():
        if version in versions:
            (chosen.add if asked else chosen.discard)(version)
    return chosen


def _configured(load: Load, versions: Sequence[Version], declarations: Declarations, resolve: Resolve) -> set[Version]:
    if isinstance(load, LoadAll):
        return set(versions)
    if isinstance(load, LoadLatest):
        return set(highest_first(versions)[: load.count])
    found = (resolve(selector, versions, declarations) for selector in load.selectors)
    return {version for version in found if version is not None}


def moves(wanted: set[Version], states: Mapping[Version, LifecycleState]) -> Moves:
    """Returns what to load and what to unload, the highest version first.

    A version that is on its way somewhere is left alone until it is there. A failed load is not tried again by itself:
    the bytes that failed cannot change.
    """
    loadable = {LifecycleState.NEW, LifecycleState.UNLOADED}
    return Moves(
        load=tuple(highest_first(v for v, state in states.items() if state in loadable and v in wanted)),
        unload=tuple(
            highest_first(v for v, state in states.items() if state is LifecycleState.READY and v not in wanted)
        ),
    )
