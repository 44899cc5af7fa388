"""Directories of this process's own, which go when it ends."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from turnout.errors import ConfigError

_MEMORY = Path("/dev/shm")  # noqa: S108 - every user may write there, and the directory made in it is this user's own


def place_for_temporary_files() -> None:
    """Has temporary files go to memory where there is no directory for them, as in a container with a read-only root.

    Processes that are started inherit it.
    """
    try:
        tempfile.gettempdir()
    except OSError:
        if os.access(_MEMORY, os.W_OK):
            os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


class Scratch:
    """Makes directories when they are first asked for, and removes them at the end of the context."""

    def __init__(self) -> None:
        self._memory: Path | None = None
        self._disk: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def memory(self) -> Path:
        """Returns a directory in memory, or on the disk where the system has none there. Raises as `disk`."""
        if self._memory is None:
            with suppress(OSError):
                if os.access(_MEMORY, os.W_OK):
                    self._memory = Path(tempfile.mkdtemp(prefix="turnout-", dir=_MEMORY))
        if self._memory is None:
            self._memory = self.disk()
        return self._memory

    def disk(self) -> Path:
        """Returns a directory where temporary files go.

        Raises:
            ConfigError: There is no place for any.
        """
        if self._disk is None:
            try:
                self._disk = Path(tempfile.mkdtemp(prefix="turnout-"))
            except OSError as error:
                raise ConfigError(
                    "there is no directory for temporary files: mount one at /tmp, or name one with TMPDIR"
                ) from error
        return self._disk

    def remove(self) -> None:
        """Removes what was made."""
        for directory in {self._memory, self._disk} - {None}:
            shutil.rmtree(str(directory), ignore_errors=True)
        self._memory = self._disk = None
