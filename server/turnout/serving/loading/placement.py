"""Chooses the GPUs that a version is loaded on, among those that it may use. Pure."""

from collections.abc import Collection, Mapping, Sequence

from turnout.serving.loading.memory_budget import Room


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
