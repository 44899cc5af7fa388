"""Writes log lines in a separate thread, so that logging neither waits for a slow reader nor fails with it.

Lines are dropped and counted if they cannot be written (a full disk, a closed pipe) or the queue is full. The file
descriptor stays in blocking mode, since it is shared with other processes.
"""

import atexit
import os
import threading
import time
from collections import deque
from typing import TextIO

MAX_LINE_BYTES = 16 * 1024
"""Maximum length of a line, in bytes."""

MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Maximum total size of the queued lines."""

_IDLE_SECONDS = 1.0
"""Seconds that the idle thread waits for another line before it exits."""

_FLUSH_SECONDS = 1.0
"""Seconds that the process waits at exit for the remaining lines to be written."""

_GATHER_SECONDS = 0.2
"""Seconds that lines wait for more lines after a write. Each time the thread runs, it takes the GIL from the event
loop: when it ran for each line of a busy server that logs one request in 100, it cost every request 12 microseconds."""

_PROMPT_WRITES = 8
"""Number of writes after a pause that do not wait for more lines, so that a server's first lines appear at once."""

_WRITE_BYTES = 64 * 1024
"""Size of one write, in bytes. Once this many are queued, they are written without waiting for more."""


class _Dropped:
    """The number of lines that all loggers of this process have lost; they share its standard error."""

    lines = 0


def dropped_lines() -> int:
    """Returns the number of log lines that this process has lost."""
    return _Dropped.lines


class LineWriter:
    """Writes lines to a stream, in order."""

    def __init__(self, stream: TextIO | None) -> None:
        """Creates a writer to `stream`. None, as in a process without standard error, drops every line."""
        self._stream = stream
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._gathering = False  # whether the thread has just written, and waits for more lines
        self._flushing = 0  # number of callers that wait in flush()
        atexit.register(self.flush)

    def write(self, line: str) -> None:
        """Queues a line; the newline is added. Never blocks or raises."""
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
            except RuntimeError:  # no thread can be started, or Python is shutting down
                self._thread = None
                _Dropped.lines += len(self._waiting)
                self._waiting.clear()
                self._bytes = 0

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Waits until all lines are written, for at most `timeout` seconds. Returns whether they are."""
        end = time.monotonic() + timeout
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._bytes, max(end - time.monotonic(), 0.0))
            finally:
                self._flushing -= 1

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
        """Returns whether to write the queued lines now instead of waiting for more."""
        return self._bytes >= _WRITE_BYTES or (self._flushing > 0 and self._bytes > 0)

    def _put(self, data: bytes) -> bool:
        """Writes all of `data`, blocking as long as necessary. Returns whether it succeeded."""
        stream = self._stream
        assert stream is not None
        try:
            try:
                descriptor = stream.fileno()
            except (OSError, ValueError, AttributeError):  # an in-memory stream, as in tests
                stream.write(data.decode())
                stream.flush()
                return True
            while data:
                data = data[os.write(descriptor, data) :]
        except (OSError, ValueError):  # the disk is full, the reader is gone, or the stream is closed
            return False
        return True
