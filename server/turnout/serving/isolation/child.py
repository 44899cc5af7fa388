"""The child process of `turnout.serving.isolation.session`: answers requests that arrive over a socket.

Run as `python -m turnout.serving.isolation.child PARENT SOCKET REQUESTS ANSWERS`, with the parent's process id and the
descriptors of the socket and the two arenas. The first frame names the version to load. The child exits when its socket
is closed, and dies with the thread that started it: Linux sends the parent-death signal when that thread ends.
"""

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from turnout.errors import MemoryBudgetExceeded, ModelFailure, TurnoutError
from turnout.host import cpu, memory, process
from turnout.registry.manifest.signature import Signature
from turnout.serving.isolation.arena import Arena
from turnout.serving.isolation.frames import MAX_ARENA, pack_answer, pack_failure, pack_loaded, unpack_request
from turnout.serving.sandbox.messages import FrameError, receive_frame, send_frame
from turnout.serving.sessions import providers
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.spec import SessionSpec


def main() -> None:
    """Serves requests until the socket is closed."""
    process.die_with_parent(int(sys.argv[1]))
    process.write_no_core()  # crashes are expected here
    memory.raise_oom_score(500)  # the server is worth more
    _, _, number, requests, answers = sys.argv
    with socket.socket(fileno=int(number)) as connection:
        _serve(
            connection, Arena(int(requests), MAX_ARENA, writable=False), Arena(int(answers), MAX_ARENA, writable=True)
        )


def _serve(connection: socket.socket, requests: Arena, answers: Arena) -> None:
    with contextlib.suppress(EOFError, FrameError):
        try:
            session = _loaded(json.loads(receive_frame(connection)))
        except TurnoutError as error:
            send_frame(connection, pack_failure(error))
            return
        send_frame(connection, pack_loaded(session.providers, session.device))
        while True:
            send_frame(connection, _answer(session, requests, answers, receive_frame(connection)))


def _loaded(job: Mapping[str, Any]) -> Session:
    """Loads the version described by `job`, at the priority that it sets.

    Raises:
        DigestMismatch: The files differ from those published.
        ModelFailure, MemoryBudgetExceeded: ONNX Runtime cannot load the model.
    """
    if job["priority"] == "low":
        cpu.lower_priority()
    loaded: list[Session] = []
    failed: list[TurnoutError] = []

    def load() -> None:
        if job["priority"] == "low_while_loading":
            cpu.lower_priority()
        try:
            loaded.append(_session(job))
        except TurnoutError as error:
            failed.append(error)

    # In a separate thread, since a thread that has lowered its priority cannot raise it again.
    loading = threading.Thread(target=load)
    loading.start()
    loading.join()
    if failed:
        raise failed[0]
    if not loaded:
        raise ModelFailure("it cannot be loaded")
    return loaded[0]


def _session(job: Mapping[str, Any]) -> Session:
    providers.start_runtime()
    if not job["files"]:
        return _new_session(job)
    from turnout.registry.manifest.manifest import FileEntry  # most children do not need this
    from turnout.registry.storage.manifests import check_files, load_unchanged

    directory, files = Path(job["model"]).parent, [FileEntry.from_json(file) for file in job["files"]]

    def verified() -> Session:
        check_files(directory, files)
        return _new_session(job)

    return load_unchanged(directory, files, verified, Session.close)


def _new_session(job: Mapping[str, Any]) -> Session:
    spec = SessionSpec(
        Path(job["model"]),
        Signature.from_json(job["signature"]),
        job["providers"],
        job["device_id"],
        SimpleNamespace(**job["runtime"]),  # type: ignore[arg-type] # see `turnout.serving.sessions.spec` on the import
        job["tensorrt"],
    )
    session = Session(spec)
    limit = job["memory_limit"]
    if limit and session.device == "cpu":
        # Only on the CPU: on a GPU the arena has the limit, and CUDA takes host memory when a kernel first runs.
        memory.limit_data(limit)
    return session


def _answer(session: Session, requests: Arena, answers: Arena, frame: bytes) -> bytes:
    try:
        inputs, names = unpack_request(requests, frame)
        return pack_answer(answers, zip(names, session.run(inputs, names), strict=True))
    except TurnoutError as error:
        return pack_failure(error)
    except MemoryError:
        return pack_failure(MemoryBudgetExceeded("a memory limit was reached"))
    except Exception as error:  # noqa: BLE001 - an error of one request is its answer
        return pack_failure(ModelFailure(f"the run failed ({type(error).__name__})"))


if __name__ == "__main__":
    main()
