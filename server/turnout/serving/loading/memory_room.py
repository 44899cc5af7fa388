"""Keeps what versions take in memory within the budget: counts them, and has others unloaded before one is loaded."""

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
"""Longest that a load waits for versions that could leave and are in use."""

_LOOK_SECONDS = 0.01
"""Between two looks whether a version that could leave is still in use: requests tell nobody that they end."""

_NAMED = 3
"""Versions that are named where another does not fit."""

_SETTING = {"cpu": "memory_budget_bytes"}


@dataclass(frozen=True, slots=True)
class Use:
    """What is known of a version that takes memory; as of `Occupant`."""

    used_at: float
    evictable: bool
    in_use: bool
    leaving: bool


def use_of(entry: VersionEntry | None, *, waited_for: bool) -> Use:
    """Tells how a version that takes memory is used.

    Args:
        entry: The version; None if it is forgotten, and its memory not yet given back.
        waited_for: Requests wait for it, or have waited and are not answered yet.
    """
    if entry is None or entry.state is not LifecycleState.READY or entry.handle is None:  # on its way in or out
        leaving = entry is None or entry.state is LifecycleState.DRAINING
        return Use(0.0, evictable=entry is not None and entry.on_demand, in_use=True, leaving=leaving)
    return Use(entry.handle.used_at, entry.on_demand, entry.handle.in_use or waited_for, leaving=False)


class MemoryRoom:
    """What all versions of a server take. Used on the event loop only."""

    def __init__(self, loading: Loading, use_of: Callable[[Key], Use], evict: Callable[[Key], None]) -> None:
        """Begins with nothing.

        Args:
            loading: Has the budgets.
            use_of: Tells how a version that takes memory is used.
            evict: Begins to unload a version.
        """
        self._cpu, self._gpu = int(loading.memory_budget_bytes), int(loading.gpu_memory_budget_bytes)
        self._use_of = use_of
        self._evict = evict
        self._taken: dict[Key, Mapping[str, int]] = {}
        self._measured: dict[Key, Mapping[str, int]] = {}
        self._lock = asyncio.Lock()

    def taken(self, *, but: Key) -> list[Mapping[str, int]]:
        """Returns what each version takes, in bytes by device, without one of them."""
        return [memory for key, memory in self._taken.items() if key != but]

    def budgets(self, devices: Iterable[str]) -> dict[str, int]:
        """Returns the budget of each of `devices` that has one, in bytes."""
        found = {device: self._cpu if device == "cpu" else self._gpu for device in devices}
        return {device: budget for device, budget in found.items() if budget}

    async def take(self, key: Key, size: int, devices: list[str]) -> None:
        """Waits until a version fits, and counts it from then on.

        Args:
            key: The version.
            size: Of its files, in bytes: what it takes at least on each device. What it took when it was loaded here
                before counts if that is more.
            devices: Where it will be loaded.

        Raises:
            MemoryBudgetExceeded: It does not fit, whatever may leave, or what may leave stayed in use.
        """
        measured = self._measured.get(key, {})
        need = {device: max(size, measured.get(device, 0)) for device in devices}
        budgets = self.budgets(need)
        if not self._fits_now(key, need, budgets):
            async with self._lock:  # one makes room at a time: two would unload for the same bytes, or twice too much
                await self._make_room(key, need, budgets)
        self._taken[key] = need

    def measured(self, key: Key, size: int, memory: Mapping[str, int]) -> None:
        """Notes what loading a version really took; a version counts as much as its files at least."""
        if key in self._taken:
            self._measured[key] = memory
            self._taken[key] = {device: max(size, taken) for device, taken in memory.items()}

    def leave(self, key: Key) -> None:
        """Notes that a version takes nothing any more."""
        self._taken.pop(key, None)

    def forget(self, key: Key) -> None:
        """Forgets what a version took once; another may come under its name."""
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
        why = "what else is loaded has to stay" if not room.possible else "what could leave is in use"
        return (
            f"it takes at least {need[device]:,} bytes on {device}; of [loading] {setting} = {budgets[device]:,}, "
            f"{sum(sizes.values()):,} are taken{others}, and {why}: a memory limit was met"
        )
