"""TCP connections of this process, found by their port regardless of which library holds them."""

import contextlib
import os
import re
import select
import socket
import stat
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_FDINFO = Path("/proc/self/fdinfo")

_WATCHED = re.compile(r"^tfd:\s*(\d+)", re.MULTILINE)
"""Matches a line of fdinfo about a file descriptor that an epoll instance watches."""

_ESTABLISHED = 1
"""State of an open TCP connection, as Linux numbers them."""


def connections(port: int) -> list[tuple[int, socket.socket]]:
    """Returns the TCP connections that this process has accepted on its port `port`, including those of libraries.

    Each item is the existing file descriptor of a connection and a new socket with a duplicate of it. The connection
    stays open until the duplicate is closed as well.
    """
    found = []
    for number in _open_sockets():
        with contextlib.suppress(OSError):  # closed in the meantime, or no descriptors are left
            connection = socket.socket(fileno=os.dup(number))
            if _local_port(connection) == port:
                found.append((number, connection))
            else:
                connection.close()
    return found


@dataclass(frozen=True, slots=True)
class TcpPeer:
    """The remote end of a TCP connection.

    Attributes:
        address: IP address; an IPv4 address in its own notation, even if the socket is an IPv6 socket.
    """

    address: str
    port: int

    @classmethod
    def of(cls, address: str, port: int) -> "TcpPeer":
        """Returns the peer for an address as a library formats it."""
        return cls(address.partition("%")[0].removeprefix("::ffff:"), port)


def peers(port: int) -> Mapping[TcpPeer, bool]:
    """Returns the peers of this process's TCP connections to its port `port`, and whether each can still send.

    A peer that cannot send has closed its end. The result is empty on systems other than Linux. Blocking; may be called
    from any thread.
    """
    found: dict[TcpPeer, bool] = {}
    if not hasattr(socket, "TCP_INFO") or sys.platform != "linux":
        return found
    for number in _open_sockets():
        with contextlib.suppress(OSError), _at(number) as connection:  # it was just closed, or has been reset
            if _local_port(connection) == port:
                address, theirs = connection.getpeername()[:2]
                state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
                found[TcpPeer.of(address, theirs)] = state == _ESTABLISHED
    return found


def connection_counts() -> Mapping[int, int]:
    """Returns the number of this process's TCP connections by their local port; 0 for a port that has none.

    Blocking: it takes some 5 us for each open file. May be called from any thread.
    """
    found: dict[int, int] = {}
    for number in _open_sockets():
        with contextlib.suppress(OSError), _at(number) as connection:  # it was just closed
            if (port := _local_port(connection)) is not None:
                found[os.fstat(number).st_ino] = port  # a connection may have several descriptors
    return Counter(found.values())


@contextlib.contextmanager
def _at(number: int) -> Iterator[socket.socket]:
    """Yields the socket with a file descriptor, and leaves it open. A duplicate would need another descriptor."""
    connection = socket.socket(fileno=number)
    try:
        yield connection
    finally:
        connection.detach()


def _local_port(connection: socket.socket) -> int | None:
    """Returns the local port of a TCP connection; None if the socket is something else, or the connection was reset."""
    try:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return None
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        port: int = connection.getsockname()[1]
    except OSError:
        return None
    return port


def cut_connections(port: int) -> None:
    """Shuts down all TCP connections that this process has accepted on port `port`, including those of libraries."""
    for _, connection in connections(port):
        with connection, contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def same_file(number: int) -> frozenset[int]:
    """Returns the file descriptors of this process that refer to the same file or socket as `number`, including it."""
    wanted, found = os.fstat(number), set()
    for other in _open_files():
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(other), wanted):
                found.add(other)
    return frozenset(found)


def unwatch(numbers: Collection[int]) -> bool:
    """Removes file descriptors from all epoll instances of this process, including those of libraries.

    The files stay open. In particular, a listening socket can still be watched through another descriptor.

    Returns:
        Whether an epoll instance watched one of the descriptors. Always False on systems other than Linux.
    """
    found = False
    with contextlib.suppress(OSError):
        for file in _FDINFO.iterdir():
            with contextlib.suppress(OSError):
                watched = {int(match[1]) for match in _WATCHED.finditer(file.read_text())} & set(numbers)
                if not watched:
                    continue
                with select.epoll.fromfd(os.dup(int(file.name))) as loop:
                    for number in watched:
                        loop.unregister(number)
                found = True
    return found


def _open_sockets() -> Iterator[int]:
    for number in _open_files():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                yield number


def _open_files() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return []
