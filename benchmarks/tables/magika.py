"""magika 3.3.0, a real model that takes a few milliseconds, compared with ONNX Runtime in process."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from harness.comparison import Row, compare
from harness.load import Generator, Target
from harness.servers import turnout
from turnout.testing import publish_models
from zoo import fetch

TITLE = "magika 3.3.0, 4 in flight, against ONNX Runtime in process with 4 threads"
THREADS = 4


def measure(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """Compares requests per second with runs per second, both with the faster of two thread settings."""
    model = fetch("magika", "3.3.0")
    publish_models(scratch / "models", {"magika@3.3.0": model})
    sessions = {threads: _session(model, threads) for threads in (1, 0)}
    best = max(sessions, key=lambda threads: _runs_a_second(sessions[threads], 2.0))
    settings = {"TURNOUT_RUNTIME__INTRA_OP_THREADS": str(best), "TURNOUT_RUNTIME__PROVIDERS": '["cpu"]'}
    with turnout(scratch / "models", os.environ | settings) as server:
        target = Target(server.grpc, "magika", "", "bytes", "i32", "1,2048")
        generator.run(target, "unary", THREADS, 1.0)
        row = compare(
            f"unary, 4 in flight, {'each run on one core' if best else 'runs on all cores'}",
            lambda: generator.run(target, "unary", THREADS, seconds).rps,
            lambda: _runs_a_second(sessions[best], seconds),
            windows,
            0.92,
        )
    return [row]


def _session(model: Path, intra_op: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _runs_a_second(session: ort.InferenceSession, seconds: float) -> float:
    feed = {"bytes": np.random.default_rng(7).integers(0, 256, (1, 2048)).astype(np.int32)}
    counts = [0] * THREADS
    end = time.perf_counter() + seconds

    def work(index: int) -> None:
        while time.perf_counter() < end:
            session.run(None, feed)
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)
