"""Inputs for the real models, and the answers of a plain ONNX Runtime session."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray


def random_inputs(model: str, version: str, seed: int) -> Mapping[str, NDArray]:
    """Returns one random row of inputs for the version."""
    random = np.random.default_rng(seed)
    if model == "silero":
        return {
            "input": random.standard_normal((1, 512)).astype(np.float32) * 0.1,
            "state": random.standard_normal((2, 1, 128)).astype(np.float32),
            "sr": np.int64(16000),
        }
    width, dtype = (1536, np.float32) if version == "1.0.0" else (2048, np.int32)
    return {"bytes": random.integers(0, 256, (1, width)).astype(dtype)}


def direct_session(path: Path) -> ort.InferenceSession:
    """Creates a session with one thread on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answer_of(session: ort.InferenceSession, inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Runs the session once, and returns the outputs by name."""
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {name: np.asarray(value) for name, value in inputs.items()})
    return dict(zip(names, values, strict=True))
