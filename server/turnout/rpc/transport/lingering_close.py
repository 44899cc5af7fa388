"""Closes connections so that their clients can read the last answers.

A socket that is closed while something of the client's waits to be read, or just before it comes, ends by a reset. At
that the client's system throws away what the client had not read yet, and refuses what it writes: answers of a server
that stops, and the GOAWAY that would have had the client send its next call elsewhere. h2corn closes so, by the end of
the last stream. So its connections are held open meanwhile, and each that it has closed is ended for writing, and read
until its client is silent.
"""

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass

from turnout.host import connections

_SILENT_SECONDS = 0.05
_MOST_SECONDS = 1.0
_STEP_SECONDS = 0.005

_RESTS = 20
"""A look at all connections takes at most one part in so many of the event loop's time, however many there are."""


@dataclass(slots=True, eq=False)
class _Held:
    """A connection that is held open.

    Attributes:
        connection: A descriptor of it.
        owner: The descriptor by which h2corn has it.
        until: When to let it go if h2corn still has it, on the event loop's clock in seconds.
        ended: When h2corn was found to have closed it; None until then.
        heard: When its client was heard last, since.
    """

    connection: socket.socket
    owner: int
    until: float
    ended: float | None = None
    heard: float = 0.0


class LingeringClose:
    """Holds connections to a port until their clients have read what was sent to them."""

    def __init__(self, port: int) -> None:
        """Prepares, for the connections that this process has accepted at its port `port`."""
        self._port = port
        self._held: dict[int, _Held] = {}
        self._looking: asyncio.Task[None] | None = None

    def hold(self, seconds: float) -> None:
        """Holds the connections that there are now; what h2corn keeps for longer than `seconds` is left to it."""
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
        """Waits until all that h2corn has closed are closed, and leaves the others to it."""
        now = asyncio.get_running_loop().time()
        for held in self._held.values():
            held.until = now
        if self._looking is not None:
            await asyncio.wait([self._looking])

    def close(self) -> None:
        """Closes all of them at once."""
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
    """Goes on with the end of a connection; returns whether nothing is left to do."""
    if held.ended is None:
        if _has(held.owner, inode):
            return now > held.until
        held.ended = held.heard = now
        with contextlib.suppress(OSError):  # its client has closed it
            held.connection.shutdown(socket.SHUT_WR)
    if (read := _read(held.connection)) is None:
        return True
    if read:
        held.heard = now
    return now > min(held.heard + _SILENT_SECONDS, held.ended + _MOST_SECONDS)


def _has(number: int, inode: int) -> bool:
    """Whether the descriptor `number` is still that of the socket `inode`."""
    try:
        return os.fstat(number).st_ino == inode
    except OSError:
        return False


def _read(connection: socket.socket) -> int | None:
    """Reads what a client sent, and throws it away; returns how many bytes that were, None once it sends no more."""
    try:
        return len(connection.recv(65536)) or None
    except BlockingIOError:
        return 0
    except OSError:
        return None
