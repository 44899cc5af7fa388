"""Handles standard streams that cannot be written.

Standard output is the result of a command: if it cannot be written, as on a full disk, the command reports an error and
exits with 1. Standard error only informs people: if it cannot be written, the command carries on.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class _OutputLost(OSError):
    """Raised when standard output cannot be written."""


class _Output(io.FileIO):
    """Standard output that raises its own type of error."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            raise  # the reader closed the pipe; typer then exits silently
        except OSError as error:
            raise _OutputLost(error.errno, error.strerror) from None


class _Error(io.FileIO):
    """Standard error, which never raises."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(memoryview(data).cast("B"))


@contextlib.contextmanager
def writing_out() -> Iterator[None]:
    """Runs a command in the block. If its output cannot be written, prints an error and exits with 1."""
    _occupy_closed()
    output: io.TextIOWrapper | None = None
    if sys.stdout is not None:
        sys.stdout = output = _text(_Output(sys.stdout.fileno(), "wb", closefd=False), sys.stdout)
    if sys.stderr is not None:
        sys.stderr = _text(_Error(sys.stderr.fileno(), "wb", closefd=False), sys.stderr)
    try:
        try:
            yield
        finally:
            if output is not None:  # not `sys.stdout`: typer may have replaced it to hide a closed pipe
                output.flush()
    except _OutputLost as error:
        _lost(error)
    except BrokenPipeError:
        _lost(None)


def _lost(error: OSError | None) -> None:
    """Exits, and discards the rest of the output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if error is not None and sys.stderr is not None:
        reason = os.strerror(error.errno or errno.EIO)
        sys.stderr.write(
            f"error: standard output cannot be written: {reason}; what the command changed stays changed\n"
        )
        sys.stderr.flush()
    sys.exit(1)


def _text(raw: io.FileIO, stream: Any) -> io.TextIOWrapper:
    """Returns a text stream like `stream`, but one that escapes bytes in file names that are not valid text."""
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, stream.encoding, "backslashreplace", line_buffering=stream.line_buffering)


def _occupy_closed() -> None:
    """Opens /dev/null for closed standard streams: otherwise libraries would print into the next file opened."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
