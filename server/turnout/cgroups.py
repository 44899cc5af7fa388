"""What Linux's control groups allow this process: version 1 and 2, nested groups, and containers.

A limit binds all groups below the one that has it, so the least of those on the way to the root holds. Where the groups
are mounted, and which of them is a mount's root (in a container that shares the host's namespace: its own), is in
`/proc/self/mountinfo`; which group this process is in, in `/proc/self/cgroup`.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_SYSTEM = Path("/")


def cpu_quota(system: Path = _SYSTEM) -> float | None:
    """Returns how many cores' time this process may use, None for no bound.

    Args:
        system: Where the root of the file system is.
    """
    quotas = [quota for group in _groups("cpu", system) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def memory_limit(system: Path = _SYSTEM) -> int | None:
    """Returns how many bytes of memory this process may have, None for no bound. Argument as of `cpu_quota`."""
    limits: list[int] = []
    for group in _groups("memory", system):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # another version of control groups, or "max"
                limits.append(int((group / name).read_text()))
    return min(limits, default=None)


def _quota(group: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period) if quota != "max" else None
    with contextlib.suppress(OSError, ValueError):
        allowed = int((group / "cpu.cfs_quota_us").read_text())  # -1 for no bound
        return allowed / int((group / "cpu.cfs_period_us").read_text()) if allowed > 0 else None
    return None


def _groups(controller: str, system: Path) -> Iterator[Path]:
    """Yields the directories of this process's groups that a controller may bind, each with all above it."""
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
    """Returns where a group lies below its mount; the mount itself where it lies outside, and so is not to be seen."""
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
    """Yields the group at the root of each mount of control groups, whether it is version 2, and where it is."""
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
    """Reads a path as mountinfo writes it: blanks and the like as backslash and three octal digits."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
