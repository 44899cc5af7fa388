"""Ports for programs that have to be told theirs, or that take the same one again after a restart."""

import random
import socket

_RANGE = range(20_000, 32_000)
"""Below what Linux gives to outgoing connections: those of tests beside could take a port that is free for a moment."""


def free_port() -> int:
    """Returns a port of 127.0.0.1 that nobody listens on."""
    for port in random.sample(_RANGE, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port was found from {_RANGE.start} to {_RANGE.stop}")
