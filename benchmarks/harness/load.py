"""The load generator: compiles loadgen/ once, runs it as a process, and parses its results."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
PROTOS = BENCHMARKS.parent / "protos"
PACKAGES = ("libgrpc++-dev", "libprotobuf-dev", "protobuf-compiler", "protobuf-compiler-grpc", "pkg-config", "g++")


@dataclass(frozen=True, slots=True)
class Load:
    """The results of one run of the generator.

    Attributes:
        rps: Responses per second.
        p50_ms, p99_ms, max_ms: Quantiles and maximum of the latency, in milliseconds.
        answers: Number of responses.
        latencies_ms: Latency of each response in milliseconds, ascending; empty if there are more than 5,000.
    """

    rps: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    answers: int
    latencies_ms: Sequence[float]


@dataclass(frozen=True, slots=True)
class Target:
    """The server and the request that the generator sends."""

    address: str
    model: str
    selector: str
    input: str
    dtype: str
    dims: str


class Generator:
    """The compiled load generator."""

    def __init__(self, optimise: str = "-O2") -> None:
        """Compiles the generator, unless it is up to date or `LOADGEN` is the path of a compiled one.

        Args:
            optimise: Optimization flag of the compiler. -O0 takes a third less CPU, for uses other than measurements.
        """
        given = os.environ.get("LOADGEN")  # a machine with a GPU may not have a compiler
        self._binary = Path(given) if given else _build(optimise)

    def start(self, target: Target, mode: str, in_flight: int, seconds: float) -> "subprocess.Popen[str]":
        """Starts a run. Call `finish` for its results."""
        t = target
        command = [t.address, t.model, t.selector, t.input, t.dtype, t.dims, mode, str(in_flight), str(seconds)]
        return subprocess.Popen(
            [str(self._binary), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self, process: "subprocess.Popen[str]") -> Load:
        """Waits for a run. A single failed request ends the benchmark, since its numbers would be meaningless."""
        out, err = process.communicate(timeout=600)
        if process.returncode:
            raise SystemExit(f"the load generator saw failures: {out.strip() or err.strip()}")
        body = json.loads(out)
        return Load(body["rps"], body["p50_ms"], body["p99_ms"], body["max_ms"], body["answers"], body["latencies_ms"])

    def run(self, target: Target, mode: str, in_flight: int, seconds: float) -> Load:
        """Runs the generator once."""
        return self.finish(self.start(target, mode, in_flight, seconds))


def _build(optimise: str) -> Path:
    import google.rpc

    source = BENCHMARKS / "loadgen" / "loadgen.cc"
    out = Path(tempfile.gettempdir()) / f"turnout-loadgen{optimise}"
    binary = out / "loadgen"
    newest = max(source.stat().st_mtime, (PROTOS / "turnout_proto/v1/prediction.proto").stat().st_mtime)
    if binary.exists() and binary.stat().st_mtime > newest:
        return binary
    if not all(shutil.which(tool) for tool in ("protoc", "grpc_cpp_plugin", "pkg-config", "g++")):
        raise SystemExit(f"the load generator is compiled; install first: apt-get install {' '.join(PACKAGES)}")
    out.mkdir(exist_ok=True)
    google = Path(next(iter(google.rpc.__path__))).parent.parent
    plugin = shutil.which("grpc_cpp_plugin")
    protos = ["turnout_proto/v1/prediction.proto", "google/rpc/status.proto"]
    _run("protoc", f"-I{PROTOS}", f"-I{google}", f"--cpp_out={out}", *protos)
    _run("protoc", f"-I{PROTOS}", f"-I{google}", f"--grpc_out={out}", f"--plugin=protoc-gen-grpc={plugin}", protos[0])
    flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", "grpc++", "protobuf"], text=True).split()
    # Compiled as one file, since each of the four would include 100,000 lines of headers. Two names occur in several.
    lines = ['#include "turnout_proto/v1/prediction.grpc.pb.h"']
    for number, file in enumerate((*sorted(out.rglob("*.pb.cc")), source)):
        lines += [f"#define {name} {name}_{number}" for name in ("schemas", "file_default_instances")]
        lines += [f'#include "{file}"', "#undef schemas", "#undef file_default_instances"]
    whole = out / "whole.cc"
    whole.write_text("\n".join(lines) + "\n")
    _run("g++", optimise, "-std=c++17", f"-I{out}", str(whole), "-o", str(binary), *flags, "-lpthread")
    return binary


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise SystemExit(f"{command[0]} failed")
