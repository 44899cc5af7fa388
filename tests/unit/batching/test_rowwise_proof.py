"""The batch dimension is followed through the graph, and a node that may mix rows is named."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

import onnx_models
import rowwise_models
from nested_models import PLACES, UNUSUAL, in_a_function
from rowwise_models import MIX
from turnout.registry.manifest.signature import Signature
from turnout.registry.onnx.graph_reader import read_graph
from turnout.registry.onnx.model import read_model
from turnout.serving.rowwise.proof import Proof, prove_rows
from usual_networks import KEEP
from zoo import WHEELS, fetch


def prove(path: Path) -> Proof:
    """Proves what the server would: every input is batched along its dimension n."""
    signature = read_model(path).signature
    axes = {spec.name: spec.shape.index("n") for spec in signature.inputs if "n" in spec.shape}
    return prove_rows(read_graph(path), signature, axes)


@pytest.fixture
def proof_of(tmp_path: Path):
    return lambda proto: prove(onnx_models.save(proto, tmp_path / "m.onnx"))


@pytest.mark.parametrize("kind", MIX)
def test_rows_that_may_mix_are_not_proved_and_the_node_is_named(proof_of, kind):
    proto = MIX[kind]()
    proof = proof_of(proto)
    assert not proof.output_axes
    operators = {node.op_type for node in read_nodes(proto)}
    obstacle = proof.obstacle.removeprefix("somebody.").removeprefix("ai.onnx.ml.")
    named = any(obstacle.startswith(operator) for operator in operators)
    assert named or proof.obstacle.startswith("output y"), proof.obstacle


def read_nodes(proto: ModelProto) -> list[onnx.NodeProto]:
    nodes = list(proto.graph.node)
    for node in nodes:
        nodes += [inner for a in node.attribute if a.HasField("g") for inner in a.g.node]
    return nodes


def _runs(kind: str) -> ort.InferenceSession | None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(MIX[kind]().SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - ONNX Runtime has errors of its own for an operator that it does not know
        return None


def test_the_models_of_the_table_are_models():
    assert len(MIX) > 60
    assert [kind for kind in MIX if _runs(kind) is None] == ["a custom operator"]


@pytest.mark.parametrize("kind", KEEP)
def test_usual_networks_are_proved(proof_of, kind):
    proof = proof_of(KEEP[kind]())
    assert proof.obstacle == ""
    assert set(proof.output_axes.values()) == {0}


@pytest.mark.parametrize("place", ["in a branch", "in a function", "in a function of another operator set"])
def test_a_network_in_branches_and_functions_is_proved(proof_of, place):
    proto = KEEP["CNN"]()
    assert proof_of(PLACES[place](proto)) == proof_of(proto) != Proof()


@pytest.mark.parametrize("place", [*PLACES, *UNUSUAL])
@pytest.mark.parametrize("kind", ["Softmax over rows", "CumSum of rows", "DynamicQuantizeLinear", "Concat of rows"])
def test_rows_that_mix_inside_are_not_proved(proof_of, place, kind):
    assert proof_of({**PLACES, **UNUSUAL}[place](MIX[kind]())).obstacle


@pytest.mark.parametrize(("opset", "proved"), [(18, True), (13, True), (12, False)])
def test_operators_of_a_function_that_mean_something_else_there_prove_nothing(proof_of, opset, proved):
    """Before operator set 13, `Softmax` normalised over all axes from the second one on, unless told otherwise."""
    takes = {"x": (rowwise_models.FLOAT, [2, "n", 4])}
    proto = rowwise_models.graph([rowwise_models.node("Softmax", "x")], takes, {"y": (rowwise_models.FLOAT, 3)})
    assert proof_of(in_a_function(proto, opset)).output_axes == ({"y": 1} if proved else {})


@pytest.mark.parametrize("version", ["1.0.0", "3.2.0", "3.3.0"])
def test_magika_is_proved(version):
    path = fetch("magika", version)
    assert prove_rows(read_graph(path), read_model(path).signature, {"bytes": 0}) == Proof({"target_label": 0})


SILERO = [version for model, version in WHEELS if model == "silero"]


@pytest.mark.parametrize("version", SILERO)
@pytest.mark.parametrize("length", [256, 512, 576])
def test_silero_is_proved_for_the_lengths_it_takes(version, length):
    path = fetch("silero", version)
    signature = read_model(path).signature
    first = type(signature.inputs[0])("input", signature.inputs[0].dtype, (None, length))
    sized = Signature((first, *signature.inputs[1:]), signature.outputs)
    assert prove_rows(read_graph(path), sized, {"input": 0, "state": 1}) == Proof({"output": 0, "stateN": 1})


@pytest.mark.parametrize("version", SILERO)
def test_silero_is_not_proved_for_every_length(version):
    """With more than one frame its decoder takes rows for time."""
    path = fetch("silero", version)
    proof = prove_rows(read_graph(path), read_model(path).signature, {"input": 0, "state": 1})
    assert "decoder/rnn" in proof.obstacle


def test_a_folded_batch_axis_is_followed_until_it_unfolds(proof_of):
    node, graph = rowwise_models.node, rowwise_models.graph
    takes = {"x": (rowwise_models.FLOAT, ["n", "t", 4])}
    constants = {"fold": np.array([-1, 4]), "w": np.ones((4, 3)) * 0.5}
    nodes = [node("Reshape", "x fold", "rows"), node("MatMul", "rows w", "y")]
    folded = graph(nodes, takes, {"y": (rowwise_models.FLOAT, 2)}, constants)
    assert "folded" in proof_of(folded).obstacle
    nodes += [
        node("Shape", "x", "size", end=2),
        node("Concat", "size three", "back", axis=0),
        node("Reshape", "y back", "z"),
    ]
    unfolded = graph(nodes, takes, {"z": (rowwise_models.FLOAT, 3)}, constants | {"three": np.array([3])})
    assert proof_of(unfolded) == Proof({"z": 0})


def test_an_output_without_rows_is_shared_only_where_it_is_constant(proof_of):
    node, graph = rowwise_models.node, rowwise_models.graph
    outputs = {"y": (rowwise_models.FLOAT, 2), "c": (rowwise_models.FLOAT, 1)}
    constants = {"k": [1.0, 2.0]}
    constant = graph([node("Neg", "x", "y"), node("Neg", "k", "c")], rowwise_models.X, outputs, constants)
    assert proof_of(constant) == Proof({"y": 0})
    summed = graph(
        [node("Neg", "x", "y"), node("ReduceSum", "x axes", "c", keepdims=0)],
        rowwise_models.X, outputs, {"axes": np.array([0])},
    )  # fmt: skip
    assert "ReduceSum" in proof_of(summed).obstacle
    counted = graph([node("Neg", "x", "y"), node("Shape", "x", "c")], rowwise_models.X, outputs)
    counted.graph.output[1].type.tensor_type.elem_type = rowwise_models.INT64
    assert "the number of rows" in proof_of(counted).obstacle


@pytest.mark.parametrize(("shape", "proved"), [(["n", 4, 4], True), (["n", "s", "s"], True), (["n", 4, "s"], False)])
def test_inverses_are_proved_only_of_square_matrices(proof_of, shape, proved) -> None:
    """Of others, ONNX Runtime reads what lies behind them: other rows."""
    inverse = rowwise_models.node("Inverse", "x", domain="com.microsoft")
    opset = {"": 18, "com.microsoft": 1}
    made = rowwise_models.graph(
        [inverse], {"x": (rowwise_models.FLOAT, shape)}, {"y": (rowwise_models.FLOAT, 3)}, None, opset
    )
    assert bool(proof_of(made).obstacle) is not proved
