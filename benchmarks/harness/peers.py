"""A real Triton server, and a load generator for the Open Inference Protocol, which both Triton and Turnout speak.

Both are next to the repository, in `../shared/tools`; `peers/README.md` there explains how to install Triton from PyPI.
`$LAB` is the folder of that installation, with its virtual environment in `v`. If any of this is missing, the
benchmarks that need it are skipped with a message.
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

TOOLS = Path(__file__).resolve().parents[3] / "shared" / "tools"
PORT = 9101
START_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Seen:
    """The results of one run of the generator.

    Attributes:
        rps: Responses per second.
        p50_ms, p99_ms: Latency quantiles, in milliseconds.
    """

    rps: float
    p50_ms: float
    p99_ms: float


class Oipload:
    """The load generator: a closed loop of ModelInfer calls, in C++."""

    def __init__(self) -> None:
        """Builds the generator in a temporary folder.

        Raises:
            LookupError: The generator or a build tool is missing; the message says which.
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
        """Runs the generator once. A single failure ends the benchmark, since its numbers would be meaningless.

        Args:
            address: Address of the server, `host:port`.
            model: Name of the model.
            tensor: The input: `name:dtype:d0,d1,...`, followed by `:below` for integers.
            in_flight: Number of concurrent calls.
            seconds: Length of the measurement, which follows a warm-up of a fifth of it.
            connections: Number of connections, which the calls use in turn.
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
    """Runs Triton with a model as `m`, which has one input `x` and one output `y` of width 64. Yields the address.

    Raises:
        LookupError: Triton is not installed, or does not start; the message says which.
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
