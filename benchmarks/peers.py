"""A real Triton, and the load generator that speaks the Open Inference Protocol to it and to Turnout alike.

Both stand beside the repository, in `../shared/tools`; `peers/README.md` there says how Triton comes from PyPI. `$LAB`
is where it was set up, with its environment in `v`. Where any of it is missing, what needs it is left out, with words.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "shared" / "tools"
PORT = 9101
START_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What one run of the generator saw.

    Attributes:
        rps: Answers a second.
        p50_ms, p99_ms: Latency.
    """

    rps: float
    p50_ms: float
    p99_ms: float


class Oipload:
    """The generator: a closed loop of ModelInfer from C++."""

    def __init__(self) -> None:
        """Builds it in a temporary folder.

        Raises:
            LookupError: It, or what it is built with, is not there; in words.
        """
        build = TOOLS / "oipload" / "build.sh"
        if not build.exists():
            raise LookupError(f"no load generator at {build.parent}")
        if shutil.which("grpc_cpp_plugin") is None:
            raise LookupError("the load generator is compiled; install libgrpc++-dev and protobuf-compiler-grpc first")
        done = subprocess.run(["bash", str(build)], capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise LookupError(f"the load generator does not build: {done.stderr[-300:]}")
        self._binary = done.stdout.split()[-1]

    def run(
        self, address: str, model: str, tensor: str, in_flight: int, seconds: float, *, connections: int = 1
    ) -> Seen:
        """Runs once; a single failure ends the benchmark, whose numbers would mean nothing.

        Args:
            address: `host:port`.
            model: Its name.
            tensor: The input: `name:dtype:d0,d1,...`, and for integers `:below`.
            in_flight: Calls at any time.
            seconds: That count, after a warm-up of a fifth of it.
            connections: That the calls take turns on.
        """
        command = [self._binary, "--url", address, "--model", model, "--input", tensor, "--conc", str(in_flight)]
        command += ["--secs", str(seconds), "--warmup", str(seconds / 5), "--channels", str(connections)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise SystemExit(f"the load generator failed: {done.stderr}")
        seen = json.loads(done.stdout)
        if seen["errors"]:
            raise SystemExit(f"the load generator saw failures: {done.stdout}")
        return Seen(seen["rps"], seen["p50"], seen["p99"])


@contextmanager
def triton(model: Path) -> Iterator[str]:
    """Serves a model of one input `x` and one output `y`, 64 wide, as `m`; yields the address.

    Raises:
        LookupError: Triton is not there, or does not start; in words.
    """
    folder = os.environ.get("LAB", "")
    if not folder or not (TOOLS / "peers" / "triton.sh").exists():
        raise LookupError("no Triton: $LAB names no folder where it was set up (../shared/tools/peers/README.md)")
    if not list(Path(folder).glob("v/lib/python*/site-packages/pytriton/tritonserver")):
        raise LookupError(f"no Triton in {folder}")
    (Path(folder) / "models").mkdir(exist_ok=True)
    shutil.copy(model, Path(folder) / "models" / "tiny.onnx")
    command = ["bash", str(TOOLS / "peers" / "triton.sh"), str(TOOLS / "peers" / "triton"), str(PORT)]
    with (Path(folder) / "triton.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _listens(PORT):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise LookupError(f"Triton did not start: {log.name} says why")
                time.sleep(0.1)
            yield f"127.0.0.1:{PORT}"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
