"""Chooses the GPUs that a version is loaded on, among those that it may use. Pure."""

from collections.abc import Collection, Mapping, Sequence


def least_loaded(devices: Sequence[str], wanted: int, taken: Collection[Mapping[str, int]]) -> list[str]:
    """Returns the devices with the least memory taken by other versions, in the order given.

    Args:
        devices: Devices that the version may use: each `cuda:N`, or `cpu` alone.
        wanted: Number of devices; 0, or more than there are, for all.
        taken: Bytes by device of each other version. Among devices with equally many bytes, the one with fewer versions
            is chosen, then the one listed first.
    """
    if not wanted or wanted >= len(devices):
        return list(devices)
    loads = {
        device: (sum(memory.get(device, 0) for memory in taken), sum(device in memory for memory in taken))
        for device in devices
    }
    chosen = sorted(devices, key=lambda device: loads[device])[:wanted]
    return [device for device in devices if device in chosen]
