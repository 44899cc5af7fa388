"""Closes connections so that their clients can read the last answers.

A socket that is closed while something of the client's waits to be read ends by a reset, at which the client's system
throws away what the client had not read yet: the last answers of a server that stops. h2corn closes so, by the end of
the last stream. So its connections are held open meanwhile, ended for writing, and read until their clients are silent.
"""

import asyncio
import contextlib
import socket
from collections.abc import Sequence

_SILENT_SECONDS = 0.05
_MOST_SECONDS = 1.0
_STEP_SECONDS = 0.005


async def linger(connections: Sequence[socket.socket]) -> None:
    """Closes connections that nothing else reads or writes any more."""
    for connection in connections:
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # its client has closed it
            connection.shutdown(socket.SHUT_WR)
    left, loop = list(connections), asyncio.get_running_loop()
    begun = heard = loop.time()
    while left and loop.time() < min(heard + _SILENT_SECONDS, begun + _MOST_SECONDS):
        for connection in list(left):
            if (read := _read(connection)) is None:
                connection.close()
                left.remove(connection)
            elif read:
                heard = loop.time()
        await asyncio.sleep(_STEP_SECONDS)
    for connection in left:
        connection.close()


def _read(connection: socket.socket) -> int | None:
    """Reads what a client sent, and throws it away; returns how many bytes that were, None once it sends no more."""
    try:
        return len(connection.recv(65536)) or None
    except BlockingIOError:
        return 0
    except OSError:
        return None
