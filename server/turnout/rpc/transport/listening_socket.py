"""Creates listening sockets."""

import socket

from turnout.address import cannot_listen
from turnout.config import Address
from turnout.errors import ConfigError

_BACKLOG = 2048

_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}
"""TCP keepalive options. Without them, the connection of a client whose machine disappears would stay open forever."""


def listen(address: Address, *, shared: bool = False) -> socket.socket:
    """Returns a socket that listens on `address`.

    Port 0 selects a free port. If it is `shared`, other processes may listen on it, and receive a share of its
    connections.

    Raises:
        ConfigError: The address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listening = socket.create_server(
            (address.host, address.port), family=family, backlog=_BACKLOG, reuse_port=shared
        )
    except OSError as error:
        reason = str(error.strerror).partition(" (while ")[0]  # Python adds the address, which is named already
        raise ConfigError(cannot_listen(address, reason)) from error
    listening.setblocking(False)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return listening
