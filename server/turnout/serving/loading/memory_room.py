"""Keeps the memory of versions within the budget: tracks it, and evicts versions before another is loaded."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from turnout.config import Loading
from turnout.errors import NoRoom, RoomInUse
from turnout.registry.manifest.manifest import Manifest
from turnout.serving.loading.memory_budget import Occupant, Room, least_loaded, room_for
from turnout.serving.versions.catalog import VersionEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.serving.versions.presence import Key

WAIT_SECONDS = 30.0
"""Longest time that a load waits for versions that are evictable but in use."""

_LOOK_SECONDS = 0.01
"""Interval between checks whether an evictable version is still in use, since requests do not signal their end. The
versions that wait are checked in turn."""

_NAMED = 3
"""Maximum number of versions named in the error for one that does not fit."""

_SETTING = {"cpu": "memory_budget_bytes"}


def occupant(key: Key, memory: Mapping[str, int], entry: VersionEntry | None, *, waited_for: bool) -> Occupant:
    """Returns how a version that takes memory is used. It has no entry if it is forgotten and its memory not yet freed.

    `waited_for` tells whether requests wait for its load, or have waited and are not answered yet.
    """
    if entry is None or entry.state is not LifecycleState.READY or entry.handle is None:  # being loaded or unloaded
        leaving = entry is None or entry.state is LifecycleState.DRAINING
        return Occupant(key, memory, 0.0, entry is not None and entry.on_demand, in_use=True, leaving=leaving)
    return Occupant(key, memory, entry.handle.used_at, entry.on_demand, entry.handle.in_use or waited_for)


class MemoryRoom:
    """Tracks the memory of all versions of a server. Used on the event loop only."""

    def __init__(
        self, loading: Loading, occupant: Callable[[Key, Mapping[str, int]], Occupant], evict: Callable[[Key], None]
    ) -> None:
        self._cpu, self._gpu = int(loading.memory_budget_bytes), int(loading.gpu_memory_budget_bytes)
        self._occupant = occupant
        self._evict = evict
        self._taken: dict[Key, Mapping[str, int]] = {}
        self._measured: dict[Key, Mapping[str, int]] = {}
        self._waiting = 0

    def budgets(self, devices: Iterable[str]) -> dict[str, int]:
        """Returns the budget in bytes of each of `devices` that has one."""
        found = {device: self._cpu if device == "cpu" else self._gpu for device in devices}
        return {device: budget for device, budget in found.items() if budget}

    async def take(self, key: Key, size: int, allowed: Sequence[str], wanted: int) -> list[str]:
        """Waits until a version fits, reserves its memory, and returns the devices on which it is to be loaded.

        Versions that wait for others to leave do not delay those that fit, or that only have to evict others first.
        `size` is the size of its files in bytes, the least that it takes on each device; if an earlier load took more,
        that amount is reserved. `wanted` of the devices `allowed` are chosen; 0 for all.

        Raises:
            NoRoom: It does not fit even if all evictable versions leave.
            RoomInUse: Evictable versions stayed in use.
        """
        need = {device: self._expected(key, size, device) for device in allowed}
        until = asyncio.get_running_loop().time() + WAIT_SECONDS
        self._waiting += 1
        try:
            while True:
                devices = self._reserve(key, need, wanted, until)
                if devices is not None:
                    return devices
                await asyncio.sleep(_LOOK_SECONDS * self._waiting)
        finally:
            self._waiting -= 1

    def _reserve(self, key: Key, need: Mapping[str, int], wanted: int, until: float) -> list[str] | None:
        """Reserves memory for a version, and returns its devices if it fits now; None if it has to wait.

        Raises:
            NoRoom, RoomInUse: As `take`.
        """
        budgets = self.budgets(need)
        occupants = [self._occupant(other, memory) for other, memory in self._taken.items() if other != key]
        devices = list(self._taken.get(key, ()))
        if not devices:
            rooms = {device: room_for({device: need[device]}, budgets, occupants) for device in need}
            devices = least_loaded(list(need), wanted, [one.memory for one in occupants], rooms)
        own = {device: need[device] for device in devices}
        room = room_for(own, budgets, occupants)
        if not room.fits and (not room.possible or asyncio.get_running_loop().time() > until):
            refused = RoomInUse if room.possible else NoRoom
            raise refused(self._refusal(own, budgets, occupants, room))
        if room.fits or room.evict:
            self._taken[key] = own  # before anything leaves, so that no other version gets that memory
        for victim in room.evict:
            self._evict(victim)
        return devices if room.fits else None

    def measured(self, manifest: Manifest, memory: Mapping[str, int]) -> None:
        """Records the memory that a version takes; at least the size of its files is counted.

        Called after its load, and again while it serves, since an isolated version starts more processes later.
        """
        key = manifest.model, manifest.version
        if key in self._taken:
            self._measured[key] = dict(memory)
            self._taken[key] = {device: max(manifest.size, taken) for device, taken in memory.items()}

    def leave(self, key: Key) -> None:
        """Records that a version takes no memory any more."""
        self._taken.pop(key, None)

    def forget(self, key: Key) -> None:
        """Forgets how much memory a version took, since another version may be published under its name."""
        self._measured.pop(key, None)

    def _expected(self, key: Key, size: int, device: str) -> int:
        """Returns the bytes that a version will take on a device: as many as an earlier load on one of its kind."""
        measured = self._measured.get(key, {})
        return max([size, *(taken for other, taken in measured.items() if (other == "cpu") == (device == "cpu"))])

    def _refusal(
        self, need: Mapping[str, int], budgets: Mapping[str, int], occupants: Sequence[Occupant], room: Room
    ) -> str:
        device = next(d for d in room.lacking or need if not room_for({d: need[d]}, budgets, occupants).fits)
        setting = _SETTING.get(device, "gpu_memory_budget_bytes")
        sizes = {"{} {}".format(*one.key): one.memory[device] for one in occupants if one.memory.get(device)}
        largest = sorted(sizes.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} has {size:,}" for name, size in largest[:_NAMED])
        others = f" ({named}{', ...' if len(largest) > _NAMED else ''})" if named else ""
        why = (
            "the other loaded versions have to stay"
            if not room.possible
            else "the versions that could be evicted are in use"
        )
        return (
            f"it takes at least {need[device]:,} bytes on {device}; of [loading] {setting} = {budgets[device]:,}, "
            f"{sum(sizes.values()):,} are taken{others}, and {why}: a memory limit was reached"
        )
