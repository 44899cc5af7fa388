"""Which versions leave memory so that another fits. Pure.

Only versions that requests had loaded ever leave, the least recently used first, and never one that is in use.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from turnout.serving.versions.presence import Key


@dataclass(frozen=True, slots=True)
class Occupant:
    """A version in memory, or on its way in or out.

    Attributes:
        key: Model and version.
        memory: Bytes by device (`cpu`, `cuda:0`).
        used_at: When it was used last, in seconds of any clock.
        evictable: It was loaded on demand, and nothing else needs it.
        in_use: Requests or work beside them are under way, or wait for it.
        leaving: It is being unloaded.
    """

    key: Key
    memory: Mapping[str, int]
    used_at: float = 0.0
    evictable: bool = False
    in_use: bool = False
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """Whether a version fits, and what has to happen first.

    Attributes:
        fits: It can be loaded now.
        evict: Versions to unload, in this order; it fits once they, and those that are leaving, are gone.
        possible: It would fit once nothing that may leave is in use any more.
        lacking: By device, bytes that are lacking even then; empty if it is possible.
    """

    fits: bool
    evict: tuple[Key, ...] = ()
    possible: bool = True
    lacking: Mapping[str, int] | None = None


def room_for(need: Mapping[str, int], budgets: Mapping[str, int], occupants: Collection[Occupant]) -> Room:
    """Decides whether a version fits beside others.

    Args:
        need: Bytes that it takes, by device.
        budgets: Bytes that all versions may take together, by device; a device that is not named has no bound.
        occupants: What takes memory now, without the version.
    """
    over = {
        device: wanted + sum(one.memory.get(device, 0) for one in occupants) - budgets[device]
        for device, wanted in need.items()
        if device in budgets
    }
    if _fits(over):
        return Room(fits=True)
    over = _without(over, [one for one in occupants if one.leaving])
    evict: list[Key] = []
    may_leave = [one for one in occupants if one.evictable and not one.leaving]
    for one in sorted((one for one in may_leave if not one.in_use), key=lambda one: one.used_at):
        if _fits(over):
            break
        if any(excess > 0 and one.memory.get(device, 0) for device, excess in over.items()):
            evict.append(one.key)
            over = _without(over, [one])
    if _fits(over):
        return Room(fits=False, evict=tuple(evict))
    lacking = _without(over, [one for one in may_leave if one.in_use])
    if _fits(lacking):
        return Room(fits=False)  # nothing is unloaded for a load that may not come about
    lacking = {device: excess for device, excess in lacking.items() if excess > 0}
    return Room(fits=False, possible=False, lacking=lacking)


def _fits(over: Mapping[str, int]) -> bool:
    return all(excess <= 0 for excess in over.values())


def _without(over: Mapping[str, int], gone: Collection[Occupant]) -> dict[str, int]:
    return {device: excess - sum(one.memory.get(device, 0) for one in gone) for device, excess in over.items()}
