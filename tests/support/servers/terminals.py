"""Runs the `turnout` command on a terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable

from processes import TURNOUT

_LIMIT_SECONDS = 120.0
_COMMANDS = re.compile(rb"\x1b(\[[0-9;?]*[a-zA-Z]|[=>]|\([A-B])")
_HOME = b"\x1b[H"
"""What each picture begins with."""


def eventually(holds: Callable[[], bool], what: Callable[[], object]) -> None:
    """Waits until something holds. If that takes too long, fails with what `what` returns."""
    deadline = time.monotonic() + _LIMIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: str, columns: int = 110, rows: int = 20) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns, rows)
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [*TURNOUT, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment | {"TERM": "xterm"},
            start_new_session=True,
        )
        os.close(slave)
        self._seen = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def text(self) -> str:
        """Everything that the command has written, without the commands to the terminal."""
        return _COMMANDS.sub(b"", self._seen).decode(errors="replace")

    @property
    def frame(self) -> str:
        """The latest picture that is on the terminal whole."""
        frames = self._seen.split(_HOME)
        return _COMMANDS.sub(b"", frames[-2]).decode(errors="replace") if len(frames) > 2 else ""

    def waits_for(self, *patterns: str, without: str = "no answer") -> None:
        """Returns once a picture shows all of the patterns, and not what it should be without."""

        def matches() -> bool:
            frame = self.frame
            return without not in frame and all(re.search(pattern, frame) for pattern in patterns)

        eventually(matches, lambda: self._seen[-3000:].decode(errors="replace"))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(10)
        os.close(self._master)

    def _read(self) -> None:
        while True:
            try:
                self._seen += os.read(self._master, 1 << 16)
            except OSError:  # the command has ended
                return
