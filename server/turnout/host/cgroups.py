"""Reads the limits that Linux control groups (versions 1 and 2) set for this process, also in containers.

A limit of a group applies to all groups below it, so the effective limit is the smallest one on the path to the root.
`/proc/self/mountinfo` shows where the groups are mounted, and which group is the root of a mount (for a container that
shares the host's namespace, the container's own group). `/proc/self/cgroup` shows the groups of this process.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_SYSTEM = Path("/")


def cpu_quota(system: Path = _SYSTEM) -> float | None:
    """Returns the CPU time that this process may use, in cores; None for no limit.

    Args:
        system: Root directory of the file system.
    """
    quotas = [quota for group in _groups("cpu", system) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def memory_limit(system: Path = _SYSTEM) -> int | None:
    """Returns the memory limit of this process in bytes; None for no limit. The argument is that of `cpu_quota`."""
    limits: list[int] = []
    for group in _groups("memory", system):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # the other cgroup version, or "max"
                limits.append(int((group / name).read_text()))
    return min(limits, default=None)


def _quota(group: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period) if quota != "max" else None
    with contextlib.suppress(OSError, ValueError):
        allowed = int((group / "cpu.cfs_quota_us").read_text())  # -1 for no limit
        return allowed / int((group / "cpu.cfs_period_us").read_text()) if allowed > 0 else None
    return None


def _groups(controller: str, system: Path) -> Iterator[Path]:
    """Yields the directories of this process's groups for a controller, including all parent groups."""
    mounts = list(_mounts(controller, system))
    with contextlib.suppress(OSError):
        for line in (system / "proc/self/cgroup").read_text().splitlines():
            number, _, rest = line.partition(":")
            names, _, path = rest.partition(":")
            unified = number == "0" and not names
            if not unified and controller not in names.split(","):
                continue
            for root, mounted in mounts:
                if mounted[0] == unified:
                    yield from _upwards(mounted[1], _below(root, path))


def _below(root: str, path: str) -> PurePosixPath:
    """Returns the path of a group relative to its mount, or of the mount itself if the group is outside it."""
    try:
        below = PurePosixPath(path).relative_to(root)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in below.parts else below


def _upwards(mount: Path, below: PurePosixPath) -> Iterator[Path]:
    yield mount
    for index in range(len(below.parts)):
        yield mount.joinpath(*below.parts[: index + 1])


def _mounts(controller: str, system: Path) -> Iterator[tuple[str, tuple[bool, Path]]]:
    """Yields, for each mount of control groups, the group at its root, whether it is version 2, and its directory."""
    with contextlib.suppress(OSError):
        for line in (system / "proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            fields, kind = before.split(), after.split()
            if len(fields) < 5 or len(kind) < 3:
                continue
            unified = kind[0] == "cgroup2"
            if unified or (kind[0] == "cgroup" and controller in kind[2].split(",")):
                yield _unescaped(fields[3]), (unified, system / _unescaped(fields[4]).lstrip("/"))


def _unescaped(text: str) -> str:
    """Decodes a path from mountinfo, where white space and backslashes are written as octal escapes."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
