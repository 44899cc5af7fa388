"""Runs that a child may not survive, and that nobody asked for: inputs are made up, so what they do is not a finding.

The child writes down what it begins. Where it dies, the next child is told, and leaves that out.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from turnout.errors import ModelFailure
from turnout.serving.inputs.time_limits import bounded_time

_FILE = "attempt"


class LeftOut(ModelFailure):
    """A run was left out, since a process did not survive it."""


class RunAttempts:
    """The child's side."""

    def __init__(self, scratch: Path, deadly: Mapping[str, str]) -> None:
        """Prepares.

        Args:
            scratch: Of the child.
            deadly: What processes before did not survive, and how they ended.
        """
        self._file = scratch / _FILE
        self._deadly = deadly

    @contextlib.contextmanager
    def attempt(self, what: str, seconds: float) -> Iterator[None]:
        """Guards a run.

        Args:
            what: Names it.
            seconds: That it may take; after that the process ends.

        Raises:
            LeftOut: A process did not survive it.
        """
        if what in self._deadly:
            raise LeftOut(self._deadly[what])
        self._file.write_text(what)
        try:
            with bounded_time(seconds):
                yield
        finally:
            self._file.unlink()


def last_attempt(scratch: Path) -> str:
    """Returns what a child that died had begun and not finished; "" if that was nothing that may be left out."""
    try:
        what = (scratch / _FILE).read_text()
        (scratch / _FILE).unlink()
    except OSError:
        return ""
    return what
