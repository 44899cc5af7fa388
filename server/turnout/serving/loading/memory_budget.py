"""Decides which versions are evicted from memory to make room for another, and on which GPUs it is loaded. Pure.

Only versions that were loaded on demand are evicted, least recently used first, and never while in use.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from turnout.serving.versions.presence import Key


@dataclass(frozen=True, slots=True)
class Occupant:
    """A version in memory, or one being loaded or unloaded.

    Attributes:
        memory: Bytes by device (`cpu`, `cuda:0`).
        used_at: Time of its last use, in seconds of any clock.
        evictable: Whether it was loaded on demand and nothing else needs it.
        in_use: Whether requests or other work use it or wait for it.
    """

    key: Key
    memory: Mapping[str, int]
    used_at: float = 0.0
    evictable: bool = False
    in_use: bool = False
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """Whether a version fits into memory, and what has to happen first.

    Attributes:
        fits: Whether it can be loaded now.
        evict: Versions to unload, in order; the version fits once these and those being unloaded are gone.
        possible: Whether it would fit once no evictable version is in use.
        lacking: Bytes still lacking then, by device; None if the version would fit.
    """

    fits: bool
    evict: tuple[Key, ...] = ()
    possible: bool = True
    lacking: Mapping[str, int] | None = None


def room_for(need: Mapping[str, int], budgets: Mapping[str, int], occupants: Collection[Occupant]) -> Room:
    """Decides whether a version fits beside others.

    It needs `need` bytes by device, and the other versions take what `occupants` say; `budgets` are for all together,
    and devices not listed there are unlimited.
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
        return Room(fits=False)  # evict nothing until the load can succeed
    lacking = {device: excess for device, excess in lacking.items() if excess > 0}
    return Room(fits=False, possible=False, lacking=lacking)


def least_loaded(
    devices: Sequence[str], wanted: int, taken: Collection[Mapping[str, int]], rooms: Mapping[str, Room]
) -> list[str]:
    """Returns the devices on which a version needs to wait least for room, in the order given.

    Of these, the devices with the least memory taken by other versions are chosen, then those with fewer versions, then
    those listed first.

    Args:
        devices: Devices that the version may use: each `cuda:N`, or `cpu` alone.
        wanted: Number of devices; 0, or more than there are, for all.
        taken: Bytes by device of each other version.
        rooms: Whether the version fits, by device.
    """
    if not wanted or wanted >= len(devices):
        return list(devices)
    ranks = {
        device: (
            _obstacle(rooms[device]),
            sum(memory.get(device, 0) for memory in taken),
            sum(device in memory for memory in taken),
        )
        for device in devices
    }
    chosen = sorted(devices, key=lambda device: ranks[device])[:wanted]
    return [device for device in devices if device in chosen]


def _obstacle(room: Room) -> int:
    """Returns how far a device is from having room: 0 if it has, 1 after evictions, 2 after waiting, 3 for never."""
    if room.fits:
        return 0
    if room.evict:
        return 1
    return 2 if room.possible else 3


def _fits(over: Mapping[str, int]) -> bool:
    return all(excess <= 0 for excess in over.values())


def _without(over: Mapping[str, int], gone: Collection[Occupant]) -> dict[str, int]:
    return {device: excess - sum(one.memory.get(device, 0) for one in gone) for device, excess in over.items()}
