"""A session in a child process, so that a native crash, a hang or running out of memory ends only the child.

    this process                                             child (`turnout.serving.isolation.child`)
      run -> tensors into the arena of requests, frame --->  run on views of them
             copies of the tensors <--- frame, arena of answers

See `turnout.serving.isolation.frames` for arenas and frames. The child can read the arena of requests but not write it.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from turnout.errors import ModelCrashed, ModelFailure, ModelTimedOut, TurnoutError
from turnout.host.memory import private_bytes
from turnout.registry.manifest.manifest import FileEntry
from turnout.serving.isolation.arena import Arena
from turnout.serving.isolation.frames import MAX_ARENA, pack_request, unpack_answer, unpack_loaded
from turnout.serving.sandbox.messages import LOOK_SECONDS, FrameError, receive_frame, send_frame
from turnout.serving.sandbox.processes import ZEROED_ENVIRONMENT, Ended, end_child, ending, start_child
from turnout.serving.sessions.spec import SessionSpec
from turnout.serving.sessions.tensor import Array

Priority = Literal["ordinary", "low_while_loading", "low"]
"""CPU priority of the child, lowered with `turnout.host.cpu.lower_priority`."""

GivenUp = Callable[[], bool]
"""Returns whether a run has been abandoned. Called about ten times a second from the thread that runs."""

_CHILD = "turnout.serving.isolation.child"
_CLOSE_SECONDS = 0.5


class ChildGone(ModelCrashed):
    """Raised if the child was not running when it was asked. The request did not reach it and may go to another."""


class IsolatedSession:
    """A session in a child process. Blocking; a lock admits one thread at a time, but `close` may come from any thread.

    The thread that calls `start` must outlive the child.

    Attributes:
        providers: Execution providers that the child's session actually uses; () before the first start.
        device: `cpu` or `cuda:N`.
        tensorrt: As in `Session`.
        zeroed: Whether the memory that a run allocates is 0.
    """

    def __init__(
        self,
        spec: SessionSpec,
        *,
        memory_limit: int = 0,
        priority: Priority = "ordinary",
        zeroed: bool = False,
        files: Sequence[FileEntry] = (),
    ) -> None:
        """Prepares the session; no process is started. Each start verifies the published `files`, also the model.

        `memory_limit` is the memory in bytes that runs on the CPU may use beyond what loading took; 0 for no limit. On
        a GPU `runtime.arena_limit_bytes` is the limit. With `zeroed`, memory of the CPU that a run allocates is 0, if
        the C library is glibc.
        """
        self._files = [entry.to_json() for entry in files]
        self._job = {
            "model": str(spec.model),
            "signature": spec.signature.to_json(),
            "providers": list(spec.providers),
            "device_id": spec.device_id,
            "runtime": spec.runtime.model_dump(mode="json") | ({"cpu_arena": False} if zeroed else {}),
            "tensorrt": dict(spec.tensorrt),
            "memory_limit": memory_limit,
            "priority": priority,
        }
        self.providers: tuple[str, ...] = ()
        self.device = "cpu"
        self.device_id = spec.device_id
        self.tensorrt = spec.tensorrt
        self.zeroed = zeroed
        self._busy = threading.Lock()
        self._closed = False
        self._requests: Arena | None = None
        self._answers: Arena | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._why = ""  # why this process killed the child; "" if it did not
        self._connection: socket.socket | None = None

    @property
    def pid(self) -> int:
        """Process id of the child; 0 if there is none."""
        return 0 if self._child is None else self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the child is running."""
        return self._child is not None and self._child.poll() is None

    @property
    def memory_bytes(self) -> int:
        """Private memory of the child in bytes; 0 if there is no child or the system does not report it."""
        return private_bytes(self.pid) if self.alive else 0

    def start(self, given_up: GivenUp = lambda: False, *, timeout: float = 60.0, verified: bool = False) -> None:
        """Starts the child and waits until its session is loaded; a running child is ended first.

        Args:
            given_up: The start is abandoned as soon as this returns True.
            timeout: Time limit in seconds for starting and loading.
            verified: Whether the files have just been verified. Otherwise the child verifies them, where a file system
                that hangs does not block this process.

        Raises:
            DigestMismatch: The files differ from those published.
            ModelFailure, MemoryBudgetExceeded: ONNX Runtime cannot load the model, or not in the permitted memory.
            ModelCrashed, ModelTimedOut: The child died, or was not ready in time; or the start was abandoned.
        """
        deadline = time.monotonic() + timeout
        with self._busy:
            if self._closed:
                raise ModelCrashed("its process was ended")
            self._end()
            self._why = ""
            try:
                self._connection = self._start_child()
            except OSError as error:
                raise ModelCrashed(f"its process cannot be started ({type(error).__name__})") from error
            try:
                answer = self._exchange(
                    json.dumps(self._job | {"files": [] if verified else self._files}).encode(),
                    lambda: given_up() or time.monotonic() > deadline,
                )
                self.providers, self.device = unpack_loaded(answer)
            except FrameError as error:
                self._end()
                raise ModelFailure("its process sent an invalid answer") from error
            except TurnoutError:
                self._end()
                raise

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], given_up: GivenUp) -> list[Array]:
        """Runs the model once, as `Session.run`; the child is killed as soon as `given_up` returns True.

        Raises:
            TurnoutError: As `Session.run`; the child keeps running.
            ChildGone: There is no child, or it had died before the request was sent.
            ModelCrashed: The child died.
            ModelTimedOut: The run was abandoned.
        """
        with self._busy:
            if self._closed or not self.alive or self._requests is None or self._answers is None:
                raise ChildGone("its process is not running")
            try:
                answer = self._exchange(pack_request(self._requests, inputs, outputs), given_up)
                return unpack_answer(self._answers, answer)
            except FrameError as error:
                self._kill_because("it sent an invalid answer")
                raise ModelCrashed("its process was ended: it sent an invalid answer") from error

    def wait(self) -> str:
        """Waits until the child has ended and returns how: `SIGFPE` or `exit code 1`. Call it from one thread only."""
        child, connection = self._child, self._connection
        assert child is not None
        if connection is not None:
            # The socket signals the end without polling. Waiting for the process itself would prevent other threads
            # from killing it.
            poll = select.poll()
            with contextlib.suppress(OSError, ValueError):  # it was closed in the meantime
                poll.register(connection.fileno(), 0)
                poll.poll()
        code = child.wait()
        why = f": {self._why}" if self._why else ""
        return ending(code) + why

    @property
    def was_ended(self) -> bool:
        """Whether this process killed the child for its behaviour, so that it did not die by itself."""
        return bool(self._why)

    def kill(self) -> None:
        """Kills the child. A run in progress raises ModelCrashed."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """Ends the child by closing its socket, then kills it if necessary. A run in progress raises ModelCrashed."""
        self._closed = True
        if self._busy.acquire(blocking=False):
            if self._connection is not None and self._child is not None:
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.wait(_CLOSE_SECONDS)
        else:  # a run is in progress whose result is no longer needed: it ends with the child
            self.kill()
            self._busy.acquire()
        try:
            self._end()
            for arena in (self._requests, self._answers):
                if arena is not None:
                    arena.close()
        finally:
            self._busy.release()

    def _start_child(self) -> socket.socket:
        if self._requests is None or self._answers is None:
            self._requests = Arena.create(MAX_ARENA, writable=True)
            self._answers = Arena.create(MAX_ARENA, writable=False)
        ours, theirs = socket.socketpair()
        requests = -1
        try:
            requests = self._requests.read_only()
            inherited = (theirs.fileno(), requests, self._answers.fd)
            # Output printed by native code goes to the stream of the log.
            tunables = ZEROED_ENVIRONMENT if self.zeroed else {}
            self._child = start_child(
                _CHILD, os.getpid(), *inherited, pass_fds=inherited, stdout=2, stderr=None, environment=tunables
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            if requests >= 0:
                os.close(requests)
        ours.settimeout(LOOK_SECONDS)
        return ours

    def _exchange(self, frame: bytes, given_up: GivenUp) -> bytes:
        connection = self._connection
        if connection is None:
            raise ChildGone("its process is not running")
        try:
            send_frame(connection, frame, given_up)
            return receive_frame(connection, given_up)
        except TimeoutError:
            self._kill_because("no caller waited for its run any more")
            raise ModelTimedOut("its process was ended: it took longer than any caller waits") from None
        except BrokenPipeError:
            raise ChildGone(f"its process had died{self._cause()}") from None
        except (ConnectionResetError, EOFError):
            raise ModelCrashed(f"its process died{self._cause()}") from None

    def _cause(self) -> str:
        """Returns the cause of the child's death, once it has ended, such as ` of SIGFPE`."""
        assert self._child is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return Ended(self._child.wait(_CLOSE_SECONDS)).cause
        self.kill()
        return ""

    def _kill_because(self, why: str) -> None:
        assert self._child is not None
        self._why = why
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_CLOSE_SECONDS)

    def _end(self) -> None:
        if self._child is not None:
            end_child(self._child)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
