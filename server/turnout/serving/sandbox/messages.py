"""What a process and its child say to each other: frames over a socket, and errors as JSON.

A frame is a length and that many bytes. The end of the socket is the end of the talk: a child ends with it.
"""

import socket
import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any

from turnout import errors
from turnout.errors import FieldViolation, ModelFailure, TurnoutError

MAX_FRAME = 1 << 26
"""Bytes of a frame."""

LOOK_SECONDS = 0.1
"""Timeout of a socket whose reader looks, each time it is over, whether anybody still waits."""

_LENGTH = struct.Struct("<I")
_MAX_CAUSE = 4000


class FrameError(Exception):
    """The other side said what makes no sense."""


class ChildErrorCause(Exception):
    """What an error of the child came from, in its words; for the log, never for a client."""


def send_frame(connection: socket.socket, data: bytes, given_up: Callable[[], bool] = lambda: False) -> None:
    """Sends a frame.

    Args:
        connection: Where to.
        data: The frame.
        given_up: Asked whenever the socket's timeout is over.

    Raises:
        TimeoutError: It was given up.
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
    """Waits for a frame; arguments as of `send_frame`.

    Raises:
        TimeoutError: It was given up.
        EOFError: The other side has ended the talk.
        FrameError: It is longer than frames are.
    """
    (size,) = _LENGTH.unpack(_receive(connection, _LENGTH.size, given_up))
    if size > MAX_FRAME:
        raise FrameError("expected a shorter frame")
    return _receive(connection, size, given_up)


def received_frame(data: bytes) -> bytes | None:
    """Returns the frame that was received; None while it is not whole."""
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
    """Returns the error that `failure_body` told.

    Args:
        body: What it returned.
        refused: Errors that are not for the child to raise: they become ModelFailure, as what is not an error does.

    Raises:
        FrameError: It did not return that.
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
