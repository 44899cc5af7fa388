"""Ports for programs that must be given one, or that need the same one again after a restart."""

import atexit
import random
import socket
from contextlib import ExitStack

_RANGE = range(20_000, 32_000)
"""Below the ports that Linux uses for outgoing connections, which could take a port that is free for a moment."""

_reserved = ExitStack()
atexit.register(_reserved.close)


def free_port() -> int:
    """Returns a free port of 127.0.0.1 that no other test on this machine gets from here.

    It is reserved until this process ends. Nothing listens on it before its program has started, or while that is
    restarted, so that another test would consider it free.
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
