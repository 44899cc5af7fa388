"""Makes captured output include all log lines so far, which are written by a thread."""

import sys
import weakref
from typing import Any, TextIO

import pytest

from shared_machine import PATIENCE_SECONDS
from turnout.telemetry.log_writer import LineWriter

_writers: "weakref.WeakSet[LineWriter]" = weakref.WeakSet()
_make_writer = LineWriter.__init__


def _remember(writer: LineWriter, stream: TextIO | None) -> None:
    _make_writer(writer, stream)
    _writers.add(writer)


LineWriter.__init__ = _remember  # type: ignore[method-assign]


def with_all_lines(capture: pytest.CaptureFixture[Any]) -> pytest.CaptureFixture[Any]:
    """Returns the same capture, which now waits for pending log lines before it is read."""
    read = capture.readouterr

    def flushed() -> Any:
        for writer in list(_writers):
            if writer._stream in (sys.stdout, sys.stderr):
                writer.flush(PATIENCE_SECONDS)
        return read()

    capture.readouterr = flushed  # type: ignore[method-assign]
    return capture
