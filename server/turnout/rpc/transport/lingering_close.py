"""Closes connections in such a way that clients can read the last responses.

If a socket is closed while unread data from the client is waiting, or just before such data arrives, the connection is
reset. On a reset, the client's system discards data that the client has not read yet, and fails its writes. The client
then loses the responses of a stopping server, and the GOAWAY that would have made it send its next call elsewhere.
h2corn closes connections in this way when their last stream ends. Therefore this module holds a second descriptor of
each connection. When h2corn has closed a connection, this module shuts it down for writing, and reads until the client
is silent.
"""

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass

from turnout.host.sockets import connections

_SILENT_SECONDS = 0.05
_MOST_SECONDS = 1.0
_STEP_SECONDS = 0.005

_RESTS = 20
"""Ratio of the pause between two checks of all connections to the duration of a check. Limits the checks to about 5% of
the event loop's time, regardless of the number of connections."""


@dataclass(slots=True, eq=False)
class _Held:
    """A connection that is held open. Times are in seconds on the event loop's clock."""

    connection: socket.socket  # our own descriptor of it
    owner: int  # h2corn's descriptor of it
    until: float  # when to release it if h2corn has not closed it
    ended: float | None = None  # when h2corn was found to have closed it
    heard: float = 0.0  # when the client last sent data after that


class LingeringClose:
    """Holds the connections to a port open until their clients have read everything that was sent to them."""

    def __init__(self, port: int) -> None:
        """Initializes the object for the connections that this process has accepted on its port `port`."""
        self._port = port
        self._held: dict[int, _Held] = {}
        self._looking: asyncio.Task[None] | None = None

    def hold(self, seconds: float) -> None:
        """Holds all current connections open. Releases a connection that h2corn has not closed after `seconds`."""
        loop = asyncio.get_running_loop()
        until, ours = loop.time() + seconds, {held.connection.fileno() for held in self._held.values()}
        for owner, connection in connections(self._port):
            inode = os.fstat(connection.fileno()).st_ino
            if inode not in self._held:
                connection.setblocking(False)
                self._held[inode] = _Held(connection, owner, until)
                continue
            connection.close()
            if owner not in ours:
                self._held[inode].until = until
        if self._held and self._looking is None:
            self._looking = asyncio.create_task(self._look())

    async def finish(self) -> None:
        """Waits until all connections that h2corn has closed are closed here too. Releases the others."""
        now = asyncio.get_running_loop().time()
        for held in self._held.values():
            held.until = now
        if self._looking is not None:
            await asyncio.wait([self._looking])

    def close(self) -> None:
        """Closes our descriptors of all connections immediately."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        for held in self._held.values():
            held.connection.close()
        self._held.clear()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while self._held:
            begun = loop.time()
            for inode, held in list(self._held.items()):
                if _is_done(held, inode, begun):
                    held.connection.close()
                    del self._held[inode]
            await asyncio.sleep(max(_STEP_SECONDS, (loop.time() - begun) * _RESTS))
        self._looking = None


def _is_done(held: _Held, inode: int, now: float) -> bool:
    """Advances the closing of a connection. Returns whether the connection can be released."""
    if held.ended is None:
        if _has(held.owner, inode):
            return now > held.until
        held.ended = held.heard = now
        with contextlib.suppress(OSError):  # the client has closed it
            held.connection.shutdown(socket.SHUT_WR)
    if (read := _read(held.connection)) is None:
        return True
    if read:
        held.heard = now
    return now > min(held.heard + _SILENT_SECONDS, held.ended + _MOST_SECONDS)


def _has(number: int, inode: int) -> bool:
    try:
        return os.fstat(number).st_ino == inode
    except OSError:
        return False


def _read(connection: socket.socket) -> int | None:
    """Reads and discards data from a client. Returns the number of bytes; None if the client has closed its side."""
    try:
        return len(connection.recv(65536)) or None
    except BlockingIOError:
        return 0
    except OSError:
        return None
