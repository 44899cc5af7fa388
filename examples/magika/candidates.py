"""Bad candidates, derived from the real magika 3.3.0, which a rollout must detect.

    python examples/magika/candidates.py DIRECTORY      write all, and print what each does to real files

Randomness comes from a fixed seed, so that the files are the same each time.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from magika.features import PADDING, features_v3
from zoo import fetch

ORIGINAL = "3.3.0"

SHORT = 100
"""Size in bytes below which the candidate that raises fails on a file."""

BEGINNING = b"#"
"""First byte of the files on which the candidate that hangs works for a long time."""

_INPUT, _OUTPUT = "bytes", "target_label"
_TOKENS = 2048
_WEIGHTS = "jax2tf_get_logits_/Const_24:0"
_COSTLY_CONVOLUTIONS = 8
_NOISE = 2.5
_ROUNDS = 12_000
_SIDE = 256


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that must not become the baseline.

    Attributes:
        version: Version number with which it is published.
        fault: Description of the fault.
        make: Function that adds the fault to the original model, in place.
    """

    version: str
    fault: str
    make: Callable[[ModelProto], None]

    def write(self, directory: Path) -> Path:
        """Writes the model and returns its path."""
        model = onnx.load(fetch("magika", ORIGINAL))
        self.make(model)
        onnx.checker.check_model(model)
        path = directory / f"magika-{self.version}.onnx"
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path


def slow(model: ModelProto) -> None:
    """Adds useless work without changing the answers: more copies of the largest layer, with reversed weights.

    The result is a number that is multiplied by "some byte is above 300" and added to the scores. No byte is, but that
    is known only at run time, so that the work cannot be folded or pruned.
    """
    (layer,) = (node for node in model.graph.node if node.op_type == "Conv")
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == layer.input[1])
    values = numpy_helper.to_array(weights)
    nodes, found = [], []
    for number in range(_COSTLY_CONVOLUTIONS):
        name = f"useless_{number}"
        model.graph.initializer.append(numpy_helper.from_array(np.roll(values[::-1], number, 0).copy(), f"{name}_w"))
        again = helper.make_node("Conv", [layer.input[0], f"{name}_w"], [f"{name}_y"], name)
        again.attribute.extend(layer.attribute)
        nodes += [again, helper.make_node("ReduceMax", [f"{name}_y"], [f"{name}_max"], axes=[1, 2, 3], keepdims=0)]
        found.append(f"{name}_max")
    _constants(model, impossible=np.array(300, np.int32))
    nodes += [
        helper.make_node("Sum", found, ["useless"]),
        helper.make_node("ReduceMax", [_INPUT], ["largest"], axes=[1], keepdims=0),
        helper.make_node("Greater", ["largest", "impossible"], ["never"]),
        helper.make_node("Cast", ["never"], ["zero"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["useless", "zero"], ["nothing"]),
    ]
    _add_to_scores(model, nodes, "nothing")


def raising(model: ModelProto) -> None:
    """Adds a look-up by a file's padding in a table that has no row for files of fewer than `SHORT` bytes."""
    rows = _TOKENS - 2 * SHORT + 1
    _constants(model, padding=np.array(PADDING, np.int32), table=np.zeros(rows, np.float32))
    nodes = [
        helper.make_node("Equal", [_INPUT, "padding"], ["is_padding"]),
        helper.make_node("Cast", ["is_padding"], ["padding_bits"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["padding_bits", "along"], ["missing"], keepdims=0),
        helper.make_node("Gather", ["table", "missing"], ["looked_up"]),
    ]
    _add_to_scores(model, nodes, "looked_up")


def perturbed(model: ModelProto) -> None:
    """Adds noise to the weights of the last layer, which changes the answers for some files."""
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == _WEIGHTS)
    values = numpy_helper.to_array(weights)
    noise = np.random.default_rng(0).standard_normal(values.shape).astype(np.float32)
    weights.CopyFrom(numpy_helper.from_array(values + _NOISE * values.std() * noise, _WEIGHTS))


def hanging(model: ModelProto) -> None:
    """Adds a loop that occupies a core for a long time if a file begins with `BEGINNING`."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["work_in", "unit"], ["work_out"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("work_in", TensorProto.FLOAT, [_SIDE, _SIDE]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("work_out", TensorProto.FLOAT, [_SIDE, _SIDE]),
        ],
    )
    _constants(
        model, first=np.array(0, np.int64), begins=np.array(BEGINNING[0], np.int32),
        rounds=np.array(_ROUNDS, np.int64), unit=np.eye(_SIDE, dtype=np.float32), zero=np.float32(0),
    )  # fmt: skip
    nodes = [
        helper.make_node("Gather", [_INPUT, "first"], ["first_bytes"], axis=1),
        helper.make_node("Equal", ["first_bytes", "begins"], ["begin_so"]),
        helper.make_node("Cast", ["begin_so"], ["counts"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["counts"], ["any"], keepdims=0),
        helper.make_node("Mul", ["any", "rounds"], ["trips"]),
        helper.make_node("Loop", ["trips", "", "unit"], ["worked"], body=body),
        helper.make_node("ReduceMin", ["worked"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["none"]),
        helper.make_node("Cast", ["counts"], ["per_file"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["per_file", "none"], ["nothing"]),
    ]
    _add_to_scores(model, nodes, "nothing")


CANDIDATES: Mapping[str, Candidate] = {
    "slow": Candidate("3.4.0", "every run costs several times as much", slow),
    "raises": Candidate("3.5.0", f"raises on files of fewer than {SHORT} bytes", raising),
    "perturbed": Candidate("3.6.0", "its last layer has noise, and some answers are others", perturbed),
    "hangs": Candidate("3.7.0", f"hangs on files that begin with {BEGINNING.decode()!r}", hanging),
}
"""The candidates by a short name of their fault."""


def _constants(model: ModelProto, **values: np.ndarray | np.generic) -> None:
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in values.items())


def _add_to_scores(model: ModelProto, nodes: Sequence[NodeProto], addend: str) -> None:
    """Appends `nodes`, and adds their output `addend`, shape (rows,), to the scores of each row."""
    (last,) = (node for node in model.graph.node if _OUTPUT in node.output)
    last.output[0] = "scores"
    _constants(model, along=np.array([1], np.int64))
    model.graph.node.extend(
        [
            *nodes,
            helper.make_node("Unsqueeze", [addend, "along"], ["column"]),
            helper.make_node("Add", ["scores", "column"], [_OUTPUT]),
        ]
    )


def session(model: Path) -> ort.InferenceSession:
    """Returns a session like the server's: on the CPU, with one thread per run."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main(directory: Path) -> None:
    """Writes all candidates and prints their effects."""
    from magika.samples import excerpts

    ort.set_default_logger_severity(4)  # one of the candidates fails on purpose
    files = [features_v3(content) for content in excerpts(800)[::4]]
    original = session(fetch("magika", ORIGINAL))
    for name, candidate in CANDIDATES.items():
        path = candidate.write(directory)
        changed, failed, times, others = 0, 0, [], []
        opened = session(path)
        for file in files:
            if name == "hangs" and file[0, 0] == BEGINNING[0]:
                continue
            start = time.perf_counter()
            (expected,) = original.run(None, {_INPUT: file})
            middle = time.perf_counter()
            try:
                (got,) = opened.run(None, {_INPUT: file})
            except Exception:  # noqa: BLE001 - one of the candidates fails on purpose
                failed += 1
                continue
            times.append(time.perf_counter() - middle)
            others.append(middle - start)
            changed += int(got.argmax() != expected.argmax())
        ratio = np.median(times) / np.median(others)
        print(
            f"{path}: {candidate.fault}; of {len(files)} files {failed} fail, {changed} have another answer; "
            f"{ratio:.2f} times the time"
        )
        if name == "hangs":
            (file,) = [file for file in files if file[0, 0] == BEGINNING[0]][:1]
            start = time.perf_counter()
            opened.run(None, {_INPUT: file})
            print(f"  a file that hangs takes {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
