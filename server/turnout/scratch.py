"""Temporary directories that are removed when the process ends."""

import os
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from turnout.errors import ConfigError

_MEMORY = Path("/dev/shm")  # noqa: S108 - world-writable, but the directory created in it belongs to this user only


def place_for_temporary_files() -> None:
    """Places temporary files in memory if there is no directory for them, as in a container with a read-only root.

    Child processes inherit the setting.
    """
    try:
        tempfile.gettempdir()
    except OSError:
        if os.access(_MEMORY, os.W_OK):
            os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


class Scratch(ExitStack):
    """Creates temporary directories on first use, and removes them at the end of the context."""

    _memory: Path | None = None
    _disk: Path | None = None

    def memory(self) -> Path:
        """Returns a directory in memory, or on disk if that is not available. Raises the same errors as `disk`."""
        if self._memory is None:
            with suppress(OSError):
                if os.access(_MEMORY, os.W_OK):
                    self._memory = self._made(_MEMORY)
        if self._memory is None:
            self._memory = self.disk()
        return self._memory

    def disk(self) -> Path:
        """Returns a directory in the usual location for temporary files.

        Raises:
            ConfigError: No directory for temporary files is available.
        """
        if self._disk is None:
            try:
                self._disk = self._made(None)
            except OSError as error:
                raise ConfigError(
                    "there is no directory for temporary files: mount one at /tmp, or name one with TMPDIR"
                ) from error
        return self._disk

    def _made(self, parent: Path | None) -> Path:
        directory = Path(tempfile.mkdtemp(prefix="turnout-", dir=parent))
        self.callback(shutil.rmtree, directory, ignore_errors=True)
        return directory
