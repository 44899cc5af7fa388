"""A session in a child process of its own, so that a native crash, a hang or memory running out ends only the child.

    this process                                   child (`turnout.serving.isolated_child`)
      run -> frame ------------ stdin ------------>  decode, run, encode
          <- frame <----------- stdout ------------

A frame is a length and a protobuf message: a PredictRequest there, a PredictStreamResponse back, whose `error` carries
a canonical gRPC code. No pickle: what a broken child writes is parsed, never executed.
"""

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf.message import DecodeError
from google.rpc.code_pb2 import DEADLINE_EXCEEDED, INVALID_ARGUMENT, RESOURCE_EXHAUSTED

from turnout.config import Runtime
from turnout.errors import InputsRefused, MemoryBudgetExceeded, ModelCrashed, ModelFailure, ModelTimedOut, TurnoutError
from turnout.registry.signature import Signature
from turnout.serving.tensor import Array
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2 as pb

HEADER = struct.Struct("<Q")
MAX_FRAME = 2**31
"""Bytes of a frame: what protobuf can hold."""

_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH", "CUDA_VISIBLE_DEVICES")
_CLOSE_SECONDS = 0.5
_CHUNK = 1 << 20


class IsolatedSession:
    """A session in a child process. Blocking; a lock lets one thread in at a time, but `close` may come from any."""

    def __init__(
        self,
        model: Path,
        signature: Signature,
        providers: Sequence[str],
        device_id: int,
        runtime: Runtime,
        *,
        memory_limit: int = 0,
        start_timeout: float = 60.0,
    ) -> None:
        """Starts the child and waits until its session is loaded.

        Args:
            model: The ONNX file; external data is found beside it.
            signature: Of that model.
            providers: ONNX Runtime's names, in order of preference.
            device_id: Of a GPU provider.
            runtime: The model's settings.
            memory_limit: Bytes that runs may take beside what loading took, on the CPU (on a GPU
                `runtime.arena_limit_bytes` bounds them); 0 for no bound.
            start_timeout: Seconds that starting and loading may take.

        Raises:
            ModelFailure: ONNX Runtime cannot load the model.
            MemoryBudgetExceeded: It does not fit the memory it may take.
            ModelCrashed: The child died.
            ModelTimedOut: It was not up in time.
        """
        self._job = json.dumps(
            {
                "model": str(model),
                "signature": signature.to_json(),
                "providers": list(providers),
                "device_id": device_id,
                "runtime": runtime.model_dump(mode="json"),
                "memory_limit": memory_limit,
            }
        ).encode()
        self._start_timeout = start_timeout
        self._busy = threading.Lock()
        self._closed = False
        self._child = self._start()

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """The child runs."""
        return self._child.poll() is None

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], timeout: float) -> list[Array]:
        """Runs the model once; arguments and answer are those of `Session.run`.

        Args:
            inputs: By name.
            outputs: Names of the outputs wanted.
            timeout: Seconds after which the child is killed.

        Raises:
            ModelFailure: The model raised; the child lives on.
            MemoryBudgetExceeded: It met its memory limit.
            ModelCrashed: The child died, or is not running.
            ModelTimedOut: It took too long and was killed.
        """
        request = pb.PredictRequest(outputs=outputs)
        for name, array in inputs.items():
            tensors.append(request.inputs, name, array)
        with self._busy:
            if not self.alive or self._closed:
                raise ModelCrashed("its process is not running")
            answer = self._exchange(request.SerializeToString(), time.monotonic() + timeout)
        try:
            return [tensors.decode(tensor) for tensor in _read(answer).outputs]
        except tensors.TensorError as error:
            raise ModelFailure("its process answered with what is no tensor") from error

    def restart(self) -> None:
        """Starts the child again, ending it first where it runs. Raises as `__init__`."""
        with self._busy:
            if self._closed:
                raise ModelCrashed("its process was ended")
            self._kill()
            self._child = self._start()

    def close(self) -> None:
        """Ends the child: asked by the end of its input, then killed. A run that is under way raises ModelCrashed."""
        self._closed = True
        idle = self._busy.acquire(blocking=False)
        if idle:
            assert self._child.stdin is not None
            with contextlib.suppress(OSError):
                self._child.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_CLOSE_SECONDS)
        else:  # a run is under way, and it is for nothing: it ends with the child
            self._child.kill()
            self._busy.acquire()
        try:
            self._kill()
        finally:
            self._busy.release()

    def _start(self) -> "subprocess.Popen[bytes]":
        names = [name for name in os.environ if name in _KEPT_ENVIRONMENT or name.startswith(("CUDA", "NVIDIA", "OMP"))]
        child = subprocess.Popen(  # noqa: S603 - nothing of a client's is in the command
            [sys.executable, "-m", "turnout.serving.isolated_child", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in names},
            # A Ctrl-C for the server is not one for the child: the server ends it in its turn. No session of its own,
            # since Linux schedules sessions as groups, and priority counts only within one (sched_autogroup).
            process_group=0,
            bufsize=0,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        os.set_blocking(child.stdin.fileno(), False)
        os.set_blocking(child.stdout.fileno(), False)
        self._child = child
        try:
            _read(self._exchange(self._job, time.monotonic() + self._start_timeout))
        except TurnoutError:
            self._kill()
            raise
        return child

    def _exchange(self, frame: bytes, deadline: float) -> bytes:
        """Sends a frame and waits for the answer's."""
        try:
            self._write(HEADER.pack(len(frame)) + frame, deadline)
            (size,) = HEADER.unpack(self._read_exactly(HEADER.size, deadline))
            if size > MAX_FRAME:
                self._kill()
                raise ModelCrashed("its process wrote what is no answer")
            return self._read_exactly(size, deadline)
        except TimeoutError:
            self._kill()
            raise ModelTimedOut("its process was ended: it took longer than it may") from None
        except (BrokenPipeError, EOFError):
            raise ModelCrashed(f"its process died{self._cause()}") from None

    def _write(self, data: bytes, deadline: float) -> None:
        assert self._child.stdin is not None
        fd = self._child.stdin.fileno()
        view = memoryview(data)
        while view:
            self._wait(fd, select.POLLOUT, deadline)
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(fd, view[:_CHUNK]) :]

    def _read_exactly(self, size: int, deadline: float) -> bytes:
        assert self._child.stdout is not None
        fd = self._child.stdout.fileno()
        parts: list[bytes] = []
        while size:
            self._wait(fd, select.POLLIN, deadline)
            with contextlib.suppress(BlockingIOError):
                part = os.read(fd, min(size, _CHUNK))
                if not part:
                    raise EOFError
                parts.append(part)
                size -= len(part)
        return b"".join(parts)

    def _wait(self, fd: int, event: int, deadline: float) -> None:
        poll = select.poll()  # select() cannot wait for descriptors from 1,024 on, and a server has that many
        poll.register(fd, event)
        if not poll.poll(max(deadline - time.monotonic(), 0.0) * 1000):
            raise TimeoutError

    def _cause(self) -> str:
        """Returns by what the child died, once it has: ` of SIGFPE`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._child.wait(_CLOSE_SECONDS)
            return f" of {signal.Signals(-code).name}" if code < 0 else f" with exit code {code}"
        self._kill()
        return ""

    def _kill(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _read(frame: bytes) -> pb.PredictResponse:
    """Returns what a frame of the child holds, or raises what it tells of."""
    try:
        answer = pb.PredictStreamResponse.FromString(frame)
    except DecodeError as error:
        raise ModelFailure("its process answered with what is no message") from error
    if not answer.HasField("error"):
        return answer.response
    kinds: dict[int, type[TurnoutError]] = {
        RESOURCE_EXHAUSTED: MemoryBudgetExceeded,
        DEADLINE_EXCEEDED: ModelTimedOut,
        INVALID_ARGUMENT: InputsRefused,
    }
    raise kinds.get(answer.error.code, ModelFailure)(answer.error.message)
