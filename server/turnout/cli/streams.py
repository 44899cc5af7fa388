"""The standard streams of a command: what becomes of it where they cannot be written.

Standard output is what a command is run for: where it cannot be written (a full disk), the command says so and ends
with 1. Standard error is for people: where it cannot be written, the command does what it would do anyway.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class _OutputLost(OSError):
    """Standard output cannot be written."""


class _Output(io.FileIO):
    """Standard output, whose errors can be told from others."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            raise  # the reader has had enough, which typer ends quietly
        except OSError as error:
            raise _OutputLost(error.errno, error.strerror) from None


class _Error(io.FileIO):
    """Standard error, which takes everything."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(memoryview(data).cast("B"))


@contextlib.contextmanager
def writing_out() -> Iterator[None]:
    """Runs a command: one whose output cannot be written ends the process with 1 and a sentence."""
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
            if output is not None:  # `sys.stdout` may be typer's by now, which hides that the reader has left
                output.flush()
    except _OutputLost as error:
        _lost(error)
    except BrokenPipeError:
        _lost(None)


def _lost(error: OSError | None) -> None:
    """Ends the process; what is left of the output goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if error is not None and sys.stderr is not None:
        reason = os.strerror(error.errno or errno.EIO)
        sys.stderr.write(
            f"error: standard output cannot be written: {reason}; what the command changed stays changed\n"
        )
        sys.stderr.flush()
    sys.exit(1)


def _text(raw: io.FileIO, stream: Any) -> io.TextIOWrapper:
    """Returns a text stream like `stream`; names from the command line may hold bytes that are no text."""
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, stream.encoding, "backslashreplace", line_buffering=stream.line_buffering)


def _occupy_closed() -> None:
    """Opens /dev/null where a standard stream is closed: else the next file opened gets what libraries print."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
