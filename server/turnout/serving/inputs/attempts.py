"""Guards runs on synthetic inputs in a child process, which may crash it; such a crash is not a finding.

The child records each run before it begins. If it dies, the next child skips that run.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from turnout.errors import ModelFailure
from turnout.serving.inputs.time_limits import bounded_time

_FILE = "attempt"


class LeftOut(ModelFailure):
    """Raised for a run that is skipped because a process did not survive it."""


class RunAttempts:
    """Records runs in the child process."""

    def __init__(self, scratch: Path, deadly: Mapping[str, str]) -> None:
        """Stores the arguments.

        Args:
            scratch: Scratch directory of the child.
            deadly: Runs that earlier processes did not survive, and how they ended.
        """
        self._file = scratch / _FILE
        self._deadly = deadly

    @contextlib.contextmanager
    def attempt(self, what: str, seconds: float) -> Iterator[None]:
        """Guards a run.

        Args:
            what: Name of the run.
            seconds: Time limit; the process is ended when it is exceeded.

        Raises:
            LeftOut: An earlier process did not survive this run.
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
    """Returns the run that a dead child had begun but not finished; "" if there is none that may be skipped."""
    try:
        what = (scratch / _FILE).read_text()
        (scratch / _FILE).unlink()
    except OSError:
        return ""
    return what
