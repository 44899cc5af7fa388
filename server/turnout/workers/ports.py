"""Reserves ports for workers, each of which binds the ports itself.

Linux distributes new connections over all sockets that listen on a port with SO_REUSEPORT, and removes a socket from
the group as soon as it is closed. Another program that bound such a port would receive a part of the traffic unnoticed.
Therefore the supervisor first checks that no other program uses the port, and then keeps the port bound as long as it
runs. Its own socket does not listen, so it receives no connections.
"""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from turnout.address import cannot_listen
from turnout.config import Address
from turnout.errors import ConfigError


@contextmanager
def kept_port(address: Address) -> Iterator[Address]:
    """Reserves a port for workers within the context, and yields its address; port 0 selects a free one.

    Raises:
        ConfigError: Another process uses the port, or the system does not distribute connections over processes.
    """
    if sys.platform != "linux":
        raise ConfigError("workers: expected 1, since only Linux spreads connections over several processes")
    try:
        with _socket(address, socket.SO_REUSEADDR) as alone:
            alone.listen(1)  # with SO_REUSEADDR, only this fails if another process listens on the port
            kept = Address(address.host, alone.getsockname()[1])
        try:
            held = _socket(kept, socket.SO_REUSEPORT)
        except OSError:  # connections of an earlier server without SO_REUSEPORT linger on the port
            # With SO_REUSEADDR, another program that also sets it could bind the port while no worker listens.
            held = _socket(kept, socket.SO_REUSEPORT, socket.SO_REUSEADDR)
    except OSError as error:
        raise ConfigError(cannot_listen(address, str(error.strerror))) from error
    with held:
        yield kept


def _socket(address: Address, *options: int) -> socket.socket:
    """Returns a bound socket with the given options."""
    bound = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind((address.host, address.port))
    except BaseException:
        bound.close()
        raise
    return bound
