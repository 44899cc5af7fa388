"""Keeps the memory of versions within the budget: tracks it, and evicts versions before another is loaded."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from turnout.config import Loading
from turnout.errors import MemoryBudgetExceeded
from turnout.serving.loading.memory_budget import Occupant, Room, room_for
from turnout.serving.versions.catalog import VersionEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.serving.versions.presence import Key

WAIT_SECONDS = 30.0
"""Longest time that a load waits for versions that are evictable but in use."""

_LOOK_SECONDS = 0.01
"""Interval between checks whether an evictable version is still in use, since requests do not signal their end."""

_NAMED = 3
"""Maximum number of versions named in the error for one that does not fit."""

_SETTING = {"cpu": "memory_budget_bytes"}


@dataclass(frozen=True, slots=True)
class Use:
    """How a version that takes memory is used; see `Occupant`."""

    used_at: float
    evictable: bool
    in_use: bool
    leaving: bool


def use_of(entry: VersionEntry | None, *, waited_for: bool) -> Use:
    """Returns how a version that takes memory is used.

    Args:
        entry: The version; None if it has been forgotten but its memory is not yet freed.
        waited_for: Whether requests wait for its load, or have waited and are not answered yet.
    """
    if entry is None or entry.state is not LifecycleState.READY or entry.handle is None:  # being loaded or unloaded
        leaving = entry is None or entry.state is LifecycleState.DRAINING
        return Use(0.0, evictable=entry is not None and entry.on_demand, in_use=True, leaving=leaving)
    return Use(entry.handle.used_at, entry.on_demand, entry.handle.in_use or waited_for, leaving=False)


class MemoryRoom:
    """Tracks the memory of all versions of a server. Used on the event loop only."""

    def __init__(self, loading: Loading, use_of: Callable[[Key], Use], evict: Callable[[Key], None]) -> None:
        """Starts without versions.

        Args:
            loading: Settings with the memory budgets.
            use_of: Returns how a version that takes memory is used.
            evict: Starts to unload a version.
        """
        self._cpu, self._gpu = int(loading.memory_budget_bytes), int(loading.gpu_memory_budget_bytes)
        self._use_of = use_of
        self._evict = evict
        self._taken: dict[Key, Mapping[str, int]] = {}
        self._measured: dict[Key, Mapping[str, int]] = {}
        self._lock = asyncio.Lock()

    def taken(self, *, but: Key) -> list[Mapping[str, int]]:
        """Returns the bytes by device of each version except one."""
        return [memory for key, memory in self._taken.items() if key != but]

    def budgets(self, devices: Iterable[str]) -> dict[str, int]:
        """Returns the budget in bytes of each of `devices` that has one."""
        found = {device: self._cpu if device == "cpu" else self._gpu for device in devices}
        return {device: budget for device, budget in found.items() if budget}

    async def take(self, key: Key, size: int, devices: list[str]) -> None:
        """Waits until a version fits, and reserves its memory.

        Args:
            key: The version.
            size: Size of its files in bytes, the least that it takes on each device. If an earlier load took more, that
                amount is reserved.
            devices: Devices on which it will be loaded.

        Raises:
            MemoryBudgetExceeded: It does not fit even if all evictable versions leave, or those stayed in use.
        """
        measured = self._measured.get(key, {})
        need = {device: max(size, measured.get(device, 0)) for device in devices}
        budgets = self.budgets(need)
        if not self._fits_now(key, need, budgets):
            async with self._lock:  # one at a time: two would evict the same versions, or more than necessary
                await self._make_room(key, need, budgets)
        self._taken[key] = need

    def measured(self, key: Key, size: int, memory: Mapping[str, int]) -> None:
        """Records the memory that a load took; at least the size of the version's files is counted."""
        if key in self._taken:
            self._measured[key] = memory
            self._taken[key] = {device: max(size, taken) for device, taken in memory.items()}

    def leave(self, key: Key) -> None:
        """Records that a version takes no memory any more."""
        self._taken.pop(key, None)

    def forget(self, key: Key) -> None:
        """Forgets how much memory a version took, since another version may be published under its name."""
        self._measured.pop(key, None)

    def _fits_now(self, key: Key, need: Mapping[str, int], budgets: Mapping[str, int]) -> bool:
        return room_for(need, budgets, self._occupants(key)).fits

    async def _make_room(self, key: Key, need: Mapping[str, int], budgets: Mapping[str, int]) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT_SECONDS
        while not (room := room_for(need, budgets, self._occupants(key))).fits:
            if not room.possible or loop.time() > until:
                raise MemoryBudgetExceeded(self._refusal(key, need, budgets, room))
            for victim in room.evict:
                self._evict(victim)
            await asyncio.sleep(_LOOK_SECONDS)

    def _occupants(self, but: Key) -> list[Occupant]:
        occupants = []
        for key, memory in self._taken.items():
            if key != but:
                use = self._use_of(key)
                occupants.append(Occupant(key, memory, use.used_at, use.evictable, use.in_use, use.leaving))
        return occupants

    def _refusal(self, key: Key, need: Mapping[str, int], budgets: Mapping[str, int], room: Room) -> str:
        device = next(iter(room.lacking or budgets))
        setting = _SETTING.get(device, "gpu_memory_budget_bytes")
        sizes = {f"{m} {v}": memory[device] for (m, v), memory in self._taken.items() if memory.get(device)}
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
