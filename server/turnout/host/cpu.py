"""The processor cores that this process may use, and the priority of its threads."""

import contextlib
import os
import sys
import threading

from turnout.host import cgroups

KEEP_PRIORITY = "_TURNOUT_KEEP_PRIORITY"
"""Environment variable that disables `lower_priority`. Tests set it for themselves and their child processes, because
they keep all cores busy for minutes, during which a thread that only runs on idle cores would not run at all."""

_NICENESS = 19


def usable_cores() -> float:
    """Returns the number of cores that this process may use: its CPU affinity, or the control groups' quota if smaller.

    A quota may be fractional: 1.5 means the CPU time of one and a half cores.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    scheduled = float(len(affinity(0))) if affinity is not None else float(os.cpu_count() or 1)
    quota = cgroups.cpu_quota()
    return scheduled if quota is None else min(scheduled, quota)


def whole_cores() -> int:
    """Returns the number of threads that can compute at the same time without being throttled, 1 or more.

    For a quota of 1.5 this is 1: two threads would use up the quota in three quarters of each period, and all threads
    of the process, including the event loop, would be suspended for the rest of it.
    """
    return max(int(usable_cores()), 1)


def lower_priority() -> None:
    """Gives the calling thread, and the threads that it starts, the lowest priority on the machine.

    On Linux, the scheduling policy and the niceness belong to a thread. With the policy SCHED_IDLE, any other thread
    that wakes up preempts this one immediately. With niceness alone, this thread would keep the core until its time
    slice ends, about 3 ms since Linux 6.6, which is visible in the p99 latency. The niceness is set as well, because
    CPU accounting uses it. Neither can be undone without privileges, so this function is for dedicated threads.
    """
    if sys.platform != "linux" or KEEP_PRIORITY in os.environ:
        return  # on other systems, niceness applies to the whole process
    with contextlib.suppress(OSError, AttributeError):  # not permitted: the threads keep their priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def has_low_priority() -> bool:
    """Returns whether the calling thread has the lowest priority, as set by `lower_priority`."""
    return hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) == os.SCHED_IDLE
