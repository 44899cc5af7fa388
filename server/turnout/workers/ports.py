"""Reserves ports for workers, each of which binds them itself.

Linux spreads new connections over all sockets that listen on a port with SO_REUSEPORT, and one that ends is taken out
of the group at once. Another program that bound such a port would get a part of the traffic unnoticed, so the parent
first checks that nobody else has it, and keeps it bound as long as it lives: a socket that does not listen gets no
connections.
"""

import socket
import sys
from types import TracebackType

from turnout.config import Address
from turnout.errors import ConfigError


class KeptPort:
    """A port that workers may bind."""

    def __init__(self, address: Address) -> None:
        """Binds the port.

        Args:
            address: With port 0 for any free port.

        Raises:
            ConfigError: Another process has it, or the system does not spread connections.
        """
        if sys.platform != "linux":
            raise ConfigError("workers: expected 1, since only Linux spreads connections over several processes")
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as alone:
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind((address.host, address.port))
                alone.listen(1)  # only now does SO_REUSEADDR refuse a port that another process listens on
                port = alone.getsockname()[1]
            try:
                self._socket = _bound(family, address.host, port, socket.SO_REUSEPORT)
            except OSError:  # connections of an earlier server, which had the port alone, linger there
                self._socket = _bound(family, address.host, port, socket.SO_REUSEPORT, socket.SO_REUSEADDR)
        except OSError as error:
            raise ConfigError(f"{address} cannot be listened on: {error.strerror}") from error
        self.address = Address(address.host, port)

    def close(self) -> None:
        """Releases the port."""
        self._socket.close()

    def __enter__(self) -> "KeptPort":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _bound(family: int, host: str, port: int, *options: int) -> socket.socket:
    """Returns a socket that is bound. With SO_REUSEADDR, others with it could bind the port while no worker listens."""
    kept = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            kept.setsockopt(socket.SOL_SOCKET, option, 1)
        kept.bind((host, port))
    except BaseException:
        kept.close()
        raise
    return kept
