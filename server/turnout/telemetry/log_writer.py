"""Writes log lines in a separate thread, so that logging never waits for a slow reader or fails with it.

Lines that cannot be written (a full disk, a closed pipe), or that too many others wait before, are dropped and
counted. The file descriptor stays a blocking one, since it is shared with other processes.
"""

import atexit
import os
import threading
import time
from collections import deque
from typing import TextIO

MAX_LINE_BYTES = 16 * 1024
"""Most characters of a line."""

MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Most bytes of lines that wait for the reader."""

_IDLE_SECONDS = 1.0
"""Seconds that the thread waits for another line before it ends."""

_FLUSH_SECONDS = 1.0
"""Seconds that the end of the process waits for the remaining lines."""

_GATHER_SECONDS = 0.2
"""Seconds that lines wait for more after a write. Whenever the thread runs, it takes the interpreter from the loop:
woken for each line of a busy server, which logs one request in 100, it cost every request 12 microseconds."""

_PROMPT_WRITES = 8
"""Writes after a pause that do not wait: somebody who starts a server waits for its first lines."""

_WRITE_BYTES = 64 * 1024
"""Bytes of one write. As soon as there are this many, they do not wait for more."""


class _Dropped:
    """Counts the lost lines of this process, for all of its loggers: they share its standard error."""

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
        self._hurry = 0  # how many callers wait for the remaining lines
        atexit.register(self.flush)

    def write(self, line: str) -> None:
        """Queues a line, without its newline. Quick, and never raises."""
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
        """Waits at most `timeout` seconds until all lines are written; tells whether they are."""
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
        """Tells whether to write the waiting lines now, rather than wait for more."""
        return self._bytes >= _WRITE_BYTES or (self._hurry > 0 and self._bytes > 0)

    def _put(self, data: bytes) -> bool:
        """Writes all of `data`, however long it takes; tells whether it succeeded."""
        stream = self._stream
        assert stream is not None
        try:
            try:
                descriptor = stream.fileno()
            except (OSError, ValueError, AttributeError):  # a stream in memory, as in tests
                stream.write(data.decode())
                stream.flush()
                return True
            while data:
                data = data[os.write(descriptor, data) :]
        except (OSError, ValueError):  # a full disk, no reader, or closed
            return False
        return True
