"""Guards runs on synthetic inputs in a child process, which may crash it; such a crash is not a finding.

The child records each run before it begins. If it dies, the next child skips that run.
"""

import contextlib
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from turnout.errors import ModelFailure

_FILE = "attempt"


class LeftOut(ModelFailure):
    """Raised for a run that is skipped because a process did not survive it."""


class RunAttempts:
    """Records runs in the child process."""

    def __init__(self, scratch: Path, deadly: Mapping[str, str]) -> None:
        """Starts without an attempt. `deadly` says, by run, how earlier processes ended that did not survive it."""
        self._file = scratch / _FILE
        self._deadly = deadly

    @contextlib.contextmanager
    def attempt(self, what: str, seconds: float) -> Iterator[None]:
        """Guards a run; `what` names it.

        After `seconds`, SIGALRM ends the process, since nothing else can stop a kernel that hangs.

        Raises:
            LeftOut: An earlier process did not survive this run.
        """
        if what in self._deadly:
            raise LeftOut(self._deadly[what])
        self._file.write_text(what)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._file.unlink()


def last_attempt(scratch: Path) -> str:
    """Returns the run that a dead child had begun but not finished; "" if there is none that may be skipped."""
    try:
        what = (scratch / _FILE).read_text()
        (scratch / _FILE).unlink()
    except OSError:
        return ""
    return what
