"""Servers to measure, each in a separate process on 127.0.0.1, and the models that they serve."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from turnout.testing import publish_models
from zoo import fetch

HARNESS = Path(__file__).resolve().parent
TURNOUT = Path(sys.executable).with_name("turnout")


@dataclass(frozen=True, slots=True)
class Served:
    """A running server.

    Attributes:
        grpc, http, control: Addresses of the listeners.
        pid: Process id.
    """

    grpc: str
    http: str
    control: str
    pid: int


def matmul(size: int = 64, seed: int = 0) -> onnx.ModelProto:
    """Returns a model of one MatMul, with input and output float32 (N, size)."""
    weights = np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name in "xy")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "matmul", [x], [y], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def tiny_and_magika(scratch: Path) -> Path:
    """Publishes a 64x64 MatMul as `tiny`, and magika 3.3.0, in a repository in `scratch`, and returns its root."""
    tiny, models = scratch / "tiny.onnx", scratch / "models"
    onnx.save(matmul(), tiny)
    publish_models(models, {"tiny@1.0.0": tiny, "magika@3.3.0": fetch("magika", "3.3.0")})
    return models


@contextmanager
def turnout(models: Path, environment: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Runs a server for `models`, and yields it once it is ready."""
    ports = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    log = models.parent / f"server-{time.monotonic_ns()}.log"
    with log.open("w") as stderr:
        command = [str(TURNOUT), "serve", "--models", str(models), "--json", *ports]
        process = subprocess.Popen(command, stderr=stderr, env=None if environment is None else dict(environment))
        try:
            yield _wait(process, log)
        finally:
            _end(process)


@contextmanager
def bare(model: Path) -> Iterator[str]:
    """Serves `model` with the minimal handler, and yields its address."""
    with _program("bare_server.py", str(model)) as address:
        yield address


@contextmanager
def echo() -> Iterator[str]:
    """Serves ModelInfer with a minimal handler that echoes, and yields its address."""
    with _program("echo_server.py") as address:
        yield address


@contextmanager
def _program(name: str, *arguments: str) -> Iterator[str]:
    """Runs a program in this folder that prints its port, and yields its address."""
    command = [sys.executable, str(HARNESS / name), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        _end(process)


def _wait(process: "subprocess.Popen[bytes]", log: Path) -> Served:
    from urllib.error import URLError
    from urllib.request import urlopen

    for _ in range(1200):
        found = re.search(r'"grpc": "([^"]+)", "http": "([^"]+)", "control": "([^"]+)"', log.read_text())
        if found:
            try:
                urlopen(f"http://{found[2]}/readyz", timeout=5).close()
                return Served(found[1], found[2], found[3], process.pid)
            except URLError:
                pass
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"the server did not get ready:\n{log.read_text()}")


def _end(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
