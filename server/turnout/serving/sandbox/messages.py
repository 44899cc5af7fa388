"""Messages between a process and its child: frames over a socket, and errors as JSON.

A frame is a length followed by that many bytes. A child ends when its socket is closed.
"""

import socket
import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any

from turnout import errors
from turnout.errors import FieldViolation, ModelFailure, TurnoutError

MAX_FRAME = 1 << 26
"""Maximum size of a frame in bytes."""

LOOK_SECONDS = 0.1
"""Socket timeout in seconds, after which readers check whether the request has been abandoned."""

_LENGTH = struct.Struct("<I")
_MAX_CAUSE = 4000


class FrameError(Exception):
    """Raised when the other side sends invalid data."""


class ChildErrorCause(Exception):
    """The cause of a child's error, as text; for the log, never for a client."""


def send_frame(connection: socket.socket, data: bytes, given_up: Callable[[], bool] = lambda: False) -> None:
    """Sends a frame. At each timeout of the socket, `given_up` returns whether to abandon the operation.

    Raises:
        TimeoutError: The operation was abandoned.
        OSError: The other side is gone.
    """
    view = memoryview(_LENGTH.pack(len(data)) + data)
    while view:
        try:
            view = view[connection.send(view) :]
        except TimeoutError:
            if given_up():
                raise


def receive_frame(connection: socket.socket, given_up: Callable[[], bool] = lambda: False) -> bytes:
    """Waits for a frame. Arguments as in `send_frame`.

    Raises:
        TimeoutError: The operation was abandoned.
        EOFError: The other side closed the connection.
        FrameError: The frame is too long.
    """
    (size,) = _LENGTH.unpack(_receive(connection, _LENGTH.size, given_up))
    if size > MAX_FRAME:
        raise FrameError("expected a shorter frame")
    return _receive(connection, size, given_up)


def received_frame(data: bytes) -> bytes | None:
    """Returns the contents of a received frame; None if it is incomplete."""
    if len(data) < _LENGTH.size or len(data) - _LENGTH.size < _LENGTH.unpack_from(data)[0]:
        return None
    return data[_LENGTH.size :]


def _receive(connection: socket.socket, size: int, given_up: Callable[[], bool]) -> bytes:
    data = b""
    while len(data) < size:
        try:
            part = connection.recv(size - len(data))
        except TimeoutError:
            if given_up():
                raise
            continue
        if not part:
            raise EOFError
        data += part
    return data


def failure_body(error: TurnoutError) -> dict[str, Any]:
    """Returns an error as JSON values."""
    return {
        "kind": type(error).__name__,
        "message": error.message,
        "retry_after": error.retry_after,
        "violations": [[violation.field, violation.description] for violation in error.violations],
        "cause": repr(error.__cause__)[:_MAX_CAUSE] if error.__cause__ is not None else "",
    }


def read_failure(body: Mapping[str, Any], refused: Collection[type[TurnoutError]] = ()) -> TurnoutError:
    """Recreates an error from the result of `failure_body`.

    Errors that a child must not raise (`refused`), or that are unknown, become ModelFailure.

    Raises:
        FrameError: The body is invalid.
    """
    try:
        kind = getattr(errors, str(body["kind"]), ModelFailure)
        if not (isinstance(kind, type) and issubclass(kind, TurnoutError)) or kind in refused:
            kind = ModelFailure
        violations = [FieldViolation(str(field), str(description)) for field, description in body["violations"]]
        error: TurnoutError = kind(str(body["message"]), violations=violations, retry_after=body["retry_after"])
        if body["cause"]:
            error.__cause__ = ChildErrorCause(str(body["cause"]))
    except (ValueError, KeyError, TypeError) as broken:
        raise FrameError("expected an error") from broken
    return error
