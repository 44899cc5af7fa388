"""What ONNX Runtime really says, kernel by kernel, and whose fault it is taken for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_models import look_up, model, tensor
from turnout.config import Runtime
from turnout.errors import InputsRefused, MemoryBudgetExceeded, ModelFailure, TurnoutError
from turnout.registry.manifest.signature import Signature
from turnout.serving.sessions.providers import CPU
from turnout.serving.sessions.runtime_errors import load_failure, run_failure, sentence
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.spec import SessionSpec

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass(frozen=True)
class Case:
    """One node, and inputs that fit the signature and not the node."""

    op: str
    inputs: Mapping[str, Any]
    says: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


REFUSED = [
    Case("Add", {"a": zeros(2), "b": zeros(3)}, "broadcast an axis by a dimension other than 1. 2 by 3"),
    Case("MatMul", {"a": zeros(2, 3), "b": zeros(4, 5)}, "MatMul dimension mismatch"),
    Case("Gemm", {"a": zeros(2, 3), "b": zeros(4, 5)}, "Dimension mismatch"),
    Case("Concat", {"a": zeros(2, 3), "b": zeros(4, 5)}, "axis dimensions must match", {"axis": 0}),
    Case("Reshape", {"a": zeros(5)}, "cannot be reshaped", weights={"s": ints(-1, 2)}),
    Case("Gather", {"a": zeros(5), "s": ints(9)}, "out of data bounds, idx=9"),
    Case("GatherElements", {"a": zeros(5), "s": ints(9)}, "Out of range value"),
    Case("GatherND", {"a": zeros(5), "s": np.array([[9]])}, "invalid index found"),
    Case("Expand", {"a": zeros(5), "s": ints(3)}, "invalid expand shape"),
    Case("Squeeze", {"a": zeros(5, 2)}, "must be 1 instead of 5", weights={"s": ints(0)}),
    Case("Split", {"a": zeros(5)}, "Cannot split", weights={"s": ints(2, 2)}, outputs=2),
    Case("Conv", {"a": zeros(1, 3, 8)}, "Input channels", weights={"w": zeros(4, 2, 3)}),
    Case("Tile", {"a": zeros(5), "s": ints(2, 3)}, "same length"),
    Case("Pad", {"a": zeros(5), "s": ints(2, 3, 4)}, "Pads tensor size"),
    Case("TopK", {"a": zeros(5), "k": ints(9)}, "should not be greater", outputs=2),
    Case("Slice", {"a": zeros(5), "b": ints(0, 1), "e": ints(1)}, "shape mismatch"),
    Case("MaxPool", {"a": zeros(1, 2, 3)}, "dimension is negative", {"kernel_shape": [9]}),
    Case("Einsum", {"a": zeros(2, 3), "b": zeros(4, 5)}, "broadcast together", {"equation": "ij,jk->ik"}),
    Case("LayerNormalization", {"a": zeros(2, 5)}, "Scale", weights={"s": zeros(3)}),
]


def session_of(case: Case, directory: Path) -> Session:
    outputs = [f"y{index}" for index in range(case.outputs)]
    feeds = [
        tensor(name, FLOAT if value.dtype == np.float32 else INT64, [f"{name}{i}" for i in range(value.ndim)])
        for name, value in case.inputs.items()
    ]
    graph = model(
        [helper.make_node(case.op, [*case.inputs, *case.weights], outputs, name="the_node", **case.attributes)],
        feeds,
        [helper.make_tensor_value_info(outputs[0], FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in case.weights.items()],
    )
    path = directory / "model.onnx"
    path.write_bytes(graph.SerializeToString())
    return Session(SessionSpec(path, Signature((), ()), [CPU], 0, Runtime()))  # it is asked for bfloat16 alone


def failure_of(session: Session, inputs: Mapping[str, Any], outputs: Sequence[str] = ("y0",)) -> TurnoutError:
    with pytest.raises(TurnoutError) as failed:
        session.run(inputs, list(outputs))
    return failed.value


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.op)
def test_inputs_that_a_kernel_cannot_take_are_the_callers(case: Case, tmp_path: Path) -> None:
    error = failure_of(session_of(case, tmp_path), case.inputs)
    assert isinstance(error, InputsRefused)
    assert f"{case.op} node 'the_node': " in error.message
    assert case.says in error.message
    for private in ("_src/", "::", ".h:", ".cc:", "ONNXRuntimeError", "Non-zero status"):
        assert private not in error.message


def test_a_failure_that_is_not_about_the_inputs_sizes_is_the_models(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(look_up().SerializeToString())
    error = failure_of(Session(SessionSpec(path, Signature((), ()), [CPU], 0, Runtime())), {"index": ints(1000)}, ["y"])
    assert isinstance(error, ModelFailure)
    assert error.message.startswith("the model raised: Cast node")


def test_memory_that_runs_out_is_no_fault_of_the_inputs(tmp_path: Path) -> None:
    case = Case("ConstantOfShape", {"s": ints(1 << 45)}, "")
    assert isinstance(failure_of(session_of(case, tmp_path), case.inputs), MemoryBudgetExceeded)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'' Status "
         "Message: CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=size", ModelFailure),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x", InputsRefused),
        ("[ONNXRuntimeError] : 1 : FAIL : Load model from /srv/models/a/model.onnx failed: bad shape", ModelFailure),
        ("Exiting due to terminate flag being set to true.", TurnoutError),
    ],
)  # fmt: skip
def test_only_a_kernel_that_is_given_something_unfit_blames_the_inputs(text: str, kind: type[TurnoutError]) -> None:
    error = run_failure(RuntimeError(text))
    assert isinstance(error, kind)
    assert "/" not in error.message


def test_a_load_never_blames_inputs_and_names_no_path() -> None:
    error = load_failure(
        RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Load model from /srv/m/model.onnx failed: no shape")
    )
    assert isinstance(error, ModelFailure)
    assert error.message == "ONNX Runtime cannot load it: Load model from ... failed: no shape"


def test_a_sentence_is_one_line_of_bounded_length() -> None:
    assert sentence("first\n\n  second " + "x" * 10_000).startswith("first second xxx")
    assert len(sentence("x" * 10_000)) == 400
