"""Which GPUs a version is loaded on, of those that it may use. Pure."""

from collections.abc import Collection, Mapping, Sequence


def least_loaded(devices: Sequence[str], wanted: int, taken: Collection[Mapping[str, int]]) -> list[str]:
    """Returns the devices that have least of other versions in memory, in the order in which they were named.

    Args:
        devices: That the version may use, `cuda:N` each, or `cpu` alone.
        wanted: How many of them; 0, or more than there are: all.
        taken: What each other version has in memory, in bytes by device. Of devices with as many bytes the one with
            fewer versions is taken, and then the one that was named first.
    """
    if not wanted or wanted >= len(devices):
        return list(devices)
    loads = {
        device: (sum(memory.get(device, 0) for memory in taken), sum(device in memory for memory in taken))
        for device in devices
    }
    chosen = sorted(devices, key=lambda device: loads[device])[:wanted]
    return [device for device in devices if device in chosen]
