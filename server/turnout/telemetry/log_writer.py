"""Writes log lines in a thread of its own: whoever logs never waits for whoever reads, nor fails with him.

Lines that cannot be written (a full disk, a closed pipe) or that wait for a reader who does not read are dropped and
counted. The file descriptor stays a blocking one, since it is shared with other processes.
"""

import atexit
import os
import threading
import time
from collections import deque
from typing import TextIO

MAX_LINE_BYTES = 16 * 1024
"""Longest line."""

MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Most bytes of lines that wait for the reader."""

_IDLE_SECONDS = 1.0
"""For so long the thread waits for another line before it ends."""

_FLUSH_SECONDS = 1.0
"""For so long the end of the process waits for the lines that are left."""

_GATHER_SECONDS = 0.2
"""For so long the next lines wait for others after a write. The thread takes the interpreter from whoever logs whenever
it runs: woken for each line of a busy server, which logs one request in 100, it cost every request 12 microseconds."""

_PROMPT_WRITES = 8
"""After a pause so many writes wait for nothing: whoever starts a server waits for its first lines."""

_WRITE_BYTES = 64 * 1024
"""Of one write. So many do not wait for more."""


class _Dropped:
    """Counts the lines of this process that were lost, whatever loggers it has: they share its standard error."""

    lines = 0


def dropped_lines() -> int:
    """Returns how many log lines of this process were lost."""
    return _Dropped.lines


class LineWriter:
    """Writes lines to a stream, in their order."""

    def __init__(self, stream: TextIO | None) -> None:
        """Prepares to write to `stream`; None, as for a process without standard error, drops every line."""
        self._stream = stream
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._gathering = False  # whether the thread wrote a moment ago, and waits for more
        self._hurry = 0  # who waits for the lines that are left
        atexit.register(self.flush)

    def write(self, line: str) -> None:
        """Takes a line, without its end. Quick, and raises nothing."""
        data = line.encode(errors="backslashreplace")
        if len(data) > MAX_LINE_BYTES:
            data = data[:MAX_LINE_BYTES]
        data += b"\n"
        with self._changed:
            if self._stream is None or self._bytes + len(data) > MAX_WAITING_BYTES:
                _Dropped.lines += 1
                return
            self._waiting.append(data)
            self._bytes += len(data)
            if self._thread is not None:
                if not self._gathering or self._bytes >= _WRITE_BYTES:
                    self._changed.notify_all()
                return
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # there are no threads to be had, or Python is at its end
                self._thread = None
                _Dropped.lines += len(self._waiting)
                self._waiting.clear()
                self._bytes = 0

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Waits until all lines are written, for at most `timeout` seconds; tells whether they are."""
        end = time.monotonic() + timeout
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._bytes, max(end - time.monotonic(), 0.0))
            finally:
                self._hurry -= 1

    def _run(self) -> None:
        writes = 0
        while True:
            with self._changed:
                if not self._waiting and not self._changed.wait_for(lambda: self._waiting, _IDLE_SECONDS):
                    self._thread = None
                    return
                lines: list[bytes] = []
                size = 0
                while self._waiting and size < _WRITE_BYTES:
                    lines.append(self._waiting.popleft())
                    size += len(lines[-1])
            written = self._put(b"".join(lines))
            with self._changed:
                _Dropped.lines += 0 if written else len(lines)
                self._bytes -= size
                self._changed.notify_all()
                writes += 1
                if writes <= _PROMPT_WRITES:
                    continue
                self._gathering = True
                self._changed.wait_for(self._due, _GATHER_SECONDS)
                self._gathering = False

    def _due(self) -> bool:
        """Tells whether what waits is to be written now, rather than with what else will come."""
        return self._bytes >= _WRITE_BYTES or (self._hurry > 0 and self._bytes > 0)

    def _put(self, data: bytes) -> bool:
        """Writes all of `data`, however long that takes; tells whether that succeeded."""
        stream = self._stream
        assert stream is not None
        try:
            try:
                descriptor = stream.fileno()
            except (OSError, ValueError, AttributeError):  # a stream in memory, as tests have
                stream.write(data.decode())
                stream.flush()
                return True
            while data:
                data = data[os.write(descriptor, data) :]
        except (OSError, ValueError):  # no room, no reader, or closed
            return False
        return True
