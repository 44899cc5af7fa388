"""The child's side of `turnout.serving.isolated`: reads requests on standard input, answers on standard output.

Run as `python -m turnout.serving.isolated_child PARENT`; the first frame says what to load. It ends when its input
does, and dies with the thread that started it: Linux sends the signal when that thread ends, not only with its process.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import BinaryIO

from google.rpc.code_pb2 import INTERNAL, INVALID_ARGUMENT, RESOURCE_EXHAUSTED

from turnout.config import Runtime
from turnout.errors import InputsRefused, MemoryBudgetExceeded, ModelFailure, TurnoutError
from turnout.registry.signature import Signature
from turnout.serving import providers
from turnout.serving.isolated import HEADER, MAX_FRAME
from turnout.serving.priority import step_back
from turnout.serving.session import Session
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2 as pb

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serves until the input ends."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is what this process is for
    reader, writer = _protocol()
    step_back()
    job = _receive(reader)
    if job is None:
        return
    answer, session = _load(job)
    _send(writer, answer)
    while session is not None and (frame := _receive(reader)) is not None:
        _send(writer, _run(session, frame))


def _protocol() -> tuple[BinaryIO, BinaryIO]:
    """Takes the pipes away from standard input and output, which whoever prints may have."""
    reader = os.fdopen(os.dup(0), "rb")
    writer = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return reader, writer


def _load(job: bytes) -> tuple[bytes, Session | None]:
    body = json.loads(job)
    try:
        providers.start_runtime()
        session = Session(
            Path(body["model"]),
            Signature.from_json(body["signature"]),
            body["providers"],
            body["device_id"],
            Runtime(**body["runtime"]),
        )
    except TurnoutError as error:
        return _failure(error), None
    if body["memory_limit"] and session.device == "cpu":
        _limit_memory(body["memory_limit"])
    return pb.PredictStreamResponse(response=pb.PredictResponse()).SerializeToString(), session


def _limit_memory(more: int) -> None:
    """Bounds what this process may take from now on.

    RLIMIT_DATA counts private writable memory, which is what arenas and tensors are. RLIMIT_AS would count what is only
    reserved as well, and ONNX Runtime reserves far more than it uses. Not for a GPU: there the arena has the limit, and
    CUDA takes host memory for each kernel that is first run.
    """
    with open("/proc/self/status") as status:
        used = next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:")), 0)
    resource.setrlimit(resource.RLIMIT_DATA, (used + more, used + more))


def _run(session: Session, frame: bytes) -> bytes:
    request = pb.PredictRequest.FromString(frame)
    try:
        inputs = {tensor.name: tensors.decode(tensor) for tensor in request.inputs}
        names = list(request.outputs)
        response = pb.PredictResponse()
        for name, array in zip(names, session.run(inputs, names), strict=True):
            tensors.append(response.outputs, name, array)
        return pb.PredictStreamResponse(response=response).SerializeToString()
    except TurnoutError as error:
        return _failure(error)
    except MemoryError:
        return _failure(MemoryBudgetExceeded("a memory limit was met"))
    except Exception as error:  # noqa: BLE001 - one request's trouble is its own answer
        return _failure(ModelFailure(f"the run failed ({type(error).__name__})"))


def _failure(error: TurnoutError) -> bytes:
    response = pb.PredictStreamResponse()
    codes = {MemoryBudgetExceeded: RESOURCE_EXHAUSTED, InputsRefused: INVALID_ARGUMENT}
    response.error.code = codes.get(type(error), INTERNAL)
    response.error.message = error.message
    return response.SerializeToString()


def _receive(reader: BinaryIO) -> bytes | None:
    """Reads a frame; None where the input ended."""
    header = reader.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    if size > MAX_FRAME:
        return None
    frame = reader.read(size)
    return frame if len(frame) == size else None


def _send(writer: BinaryIO, frame: bytes) -> None:
    data = memoryview(HEADER.pack(len(frame)) + frame)
    while data:
        data = data[writer.write(data) :]


def die_with_parent() -> None:
    """Has this process end when the thread that started it does; `argv[1]` is that process's id."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):  # it died before that was asked for
        sys.exit(1)


if __name__ == "__main__":
    main()
