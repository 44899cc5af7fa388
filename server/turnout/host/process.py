"""Properties of this process: its user, its parent, and what happens when it crashes."""

import contextlib
import ctypes
import os
import signal
import sys
from types import ModuleType

resource: ModuleType | None
try:
    import resource
except ModuleNotFoundError:
    resource = None

_PR_SET_PDEATHSIG = 1


def user_id() -> str:
    """Returns the user id of this process as a string; "" if the system has no user ids."""
    getuid = getattr(os, "getuid", None)
    return "" if getuid is None else str(getuid())


def die_with_parent(parent: int) -> None:
    """Makes this process end when the thread that started it ends. Exits immediately if its parent, a process id, has
    already ended.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the call to prctl
        sys.exit(1)


def write_no_core() -> None:
    """Prevents a crash of this process from writing a core file."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
