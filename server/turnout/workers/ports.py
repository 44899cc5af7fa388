"""Reserves ports for workers, each of which binds the ports itself.

Linux distributes new connections over all sockets that listen on a port with SO_REUSEPORT, and removes a socket from
the group as soon as it is closed. Another program that bound such a port would receive a part of the traffic unnoticed.
Therefore the supervisor first checks that no other program uses the port, and then keeps the port bound as long as it
runs. Its own socket does not listen, so it receives no connections.
"""

import socket
import sys

from turnout.config import Address
from turnout.errors import ConfigError


class KeptPort:
    """A reserved port that workers can bind."""

    def __init__(self, address: Address) -> None:
        """Reserves the port; port 0 selects a free one.

        Raises:
            ConfigError: Another process uses the port, or the system does not distribute connections over processes.
        """
        if sys.platform != "linux":
            raise ConfigError("workers: expected 1, since only Linux spreads connections over several processes")
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as alone:
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind((address.host, address.port))
                alone.listen(1)  # with SO_REUSEADDR, only this fails if another process listens on the port
                port = alone.getsockname()[1]
            try:
                self._socket = _bound(family, address.host, port, socket.SO_REUSEPORT)
            except OSError:  # connections of an earlier server without SO_REUSEPORT linger on the port
                self._socket = _bound(family, address.host, port, socket.SO_REUSEPORT, socket.SO_REUSEADDR)
        except OSError as error:
            raise ConfigError(f"{address} cannot be listened on: {error.strerror}") from error
        self.address = Address(address.host, port)

    def close(self) -> None:
        """Releases the port."""
        self._socket.close()

    def __enter__(self) -> "KeptPort":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _bound(family: int, host: str, port: int, *options: int) -> socket.socket:
    """Returns a bound socket. With SO_REUSEADDR, another program that also sets it could bind the port while no worker
    listens.
    """
    kept = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            kept.setsockopt(socket.SOL_SOCKET, option, 1)
        kept.bind((host, port))
    except BaseException:
        kept.close()
        raise
    return kept
