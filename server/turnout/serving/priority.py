"""Threads whose work can wait: they have a core when nobody else wants it."""

import contextlib
import os
import threading

_NICENESS = 19


def step_back() -> None:
    """Lets every other thread of the machine go before the calling one, and before the threads that it starts.

    On Linux policy and niceness belong to a thread. SCHED_IDLE is what makes a waking thread take the core at once: a
    thread that is only nice keeps it until its slice is over, some 3 ms since Linux 6.6, and p99 shows that. Niceness
    is set besides, since accounting goes by it. Neither can be taken back without privileges, so this is for threads
    that do nothing else.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or not allowed: such threads are only less polite
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
