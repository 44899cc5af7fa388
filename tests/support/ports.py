"""Ports for programs that have to be told theirs, or that take the same one again after a restart."""

import atexit
import random
import socket
from contextlib import ExitStack

_RANGE = range(20_000, 32_000)
"""Below what Linux gives to outgoing connections: those of tests beside could take a port that is free for a moment."""

_reserved = ExitStack()
atexit.register(_reserved.close)


def free_port() -> int:
    """Returns a port of 127.0.0.1 that nobody listens on, and that no other test of this machine gets from here.

    It is the caller's until this process ends: nobody listens on it before its program has started, or while that is
    restarted, and a test beside would find it free.
    """
    for port in random.sample(_RANGE, 1000):
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0turnout-tests-port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        _reserved.callback(mark.close)
        return port
    raise RuntimeError(f"no free port was found from {_RANGE.start} to {_RANGE.stop}")
