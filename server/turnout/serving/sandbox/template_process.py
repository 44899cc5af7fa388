"""The warm process of `turnout.serving.sandbox.fork_server`: it has imported what children need, and forks them.

Run as `python -m turnout.serving.sandbox.template_process SOCKET IDLE_SECONDS`, with "" as IDLE_SECONDS to stay. It
holds no session and, as long as no import starts a thread, has a single thread, so that forking is safe; otherwise each
child gets a new interpreter. It ends when its standard input is closed.
"""

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from turnout.host import cpu, process
from turnout.host.garbage import freeze_objects
from turnout.serving.sandbox import child as sandbox_child
from turnout.serving.sandbox.messages import received_frame, send_frame
from turnout.serving.sandbox.processes import short_address
from turnout.serving.sessions import providers

_MAX_MESSAGE = 1 << 16


@dataclass(slots=True, eq=False)
class _Child:
    """A connection to a process that asked, and the child that answers."""

    connection: socket.socket
    message: bytes = b""  # received so far
    pid: int = 0  # 0 before the child is started
    end: int = -1  # process descriptor, readable when the child ends; -1 before it is started


class _Warm:
    """Forks and watches children in a single loop."""

    def __init__(self, listener: socket.socket, idle_seconds: float | None) -> None:
        self._listener = listener
        self._idle_seconds = idle_seconds
        self._selector = selectors.DefaultSelector()
        self._children: set[_Child] = set()
        self._selector.register(0, selectors.EVENT_READ, None)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def run(self) -> None:
        """Serves until the owner is gone or the process has been idle for long enough."""
        while True:
            events = self._selector.select(None if self._children else self._idle_seconds)
            if not events and not self._children:
                return
            for key, _ in events:
                if key.data is None:
                    return
                key.data()

    def close(self) -> None:
        for child in list(self._children):
            self._forget(child)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        child = _Child(connection)
        self._children.add(child)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._receive(child))

    def _receive(self, child: _Child) -> None:
        if child not in self._children:  # removed by an earlier event of the same poll
            return
        try:
            part = child.connection.recv(_MAX_MESSAGE)
        except OSError:
            part = b""
        if not part or len(child.message) > _MAX_MESSAGE:
            self._forget(child)  # the caller is gone or sends too much
            return
        child.message += part
        if not child.pid and (job := received_frame(child.message)) is not None:
            self._start(child, json.loads(job))

    def _start(self, child: _Child, job: dict[str, object]) -> None:
        scratch, idle = str(job["scratch"]), bool(job["idle"])
        child.pid = self._fork(scratch, idle=idle) if len(os.listdir("/proc/self/task")) == 1 else _spawn(scratch)
        child.end = os.pidfd_open(child.pid)
        self._selector.register(child.end, selectors.EVENT_READ, lambda: self._ended(child))

    def _fork(self, scratch: str, *, idle: bool) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            self._leave(parent)
            if idle:
                cpu.lower_priority()
            sandbox_child.answer(Path(scratch))
            code = 0
        except BaseException:  # noqa: BLE001 - nothing may propagate into the parent's loop
            traceback.print_exc()
        finally:
            os._exit(code)

    def _leave(self, parent: int) -> None:
        """Detaches the child from its parent's resources."""
        os.setpgid(0, 0)
        process.die_with_parent(parent)
        self._selector.close()
        self._listener.close()
        for other in self._children:
            other.connection.close()
            if other.end >= 0:
                os.close(other.end)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)

    def _ended(self, child: _Child) -> None:
        if child not in self._children:  # removed by an earlier event of the same poll
            return
        _, status, usage = os.wait4(child.pid, 0)
        child.pid = 0
        reply = {"code": os.waitstatus_to_exitcode(status), "peak_bytes": usage.ru_maxrss * 1024}
        with contextlib.suppress(OSError):  # the process that asked is gone
            send_frame(child.connection, json.dumps(reply).encode())
        self._forget(child)

    def _forget(self, child: _Child) -> None:
        self._children.discard(child)
        self._selector.unregister(child.connection)
        child.connection.close()
        if child.end >= 0:
            self._selector.unregister(child.end)
            os.close(child.end)
        if child.pid:
            # It leads its own process group and has not been reaped, so its id cannot have been reused.
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has not created its group yet
                os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)


def main() -> None:
    """Listens and serves."""
    process.write_no_core()  # children may crash
    providers.start_runtime()
    providers.prepare_for_forks()
    with socket.socket(socket.AF_UNIX) as listener:
        with short_address(sys.argv[1]) as path:
            listener.bind(path)
        listener.listen(128)
        os.write(1, b"\n")  # the process that started this one waits for it
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 1)
        freeze_objects()  # children share their pages as long as no collection writes to them
        warm = _Warm(listener, float(sys.argv[2]) if any(sys.argv[2:]) else None)
        try:
            warm.run()
        finally:
            warm.close()
            # The owner removes it as well, unless it was killed.
            shutil.rmtree(Path(sys.argv[1]).parent, ignore_errors=True)


def _spawn(scratch: str) -> int:
    """Starts a child with a new interpreter, for a process that cannot be forked."""
    command = [sys.executable, "-m", "turnout.serving.sandbox.child", scratch, str(os.getpid())]
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=[nothing], setpgroup=0)


if __name__ == "__main__":
    main()
