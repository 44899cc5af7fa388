"""A graph is read from its file without its weights, and with nothing believed that nobody checks."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnx_models
from turnout.errors import InvalidModel
from turnout.registry.onnx import functions as onnx_functions
from turnout.registry.onnx import structure as onnx_structure
from turnout.registry.onnx.graph import Graph, ModelGraph, TensorType, UnreadAttribute
from turnout.registry.onnx.graph_reader import read_graph


@pytest.fixture
def graph_of(tmp_path: Path):
    def read(proto: ModelProto) -> ModelGraph:
        return read_graph(onnx_models.save(proto, tmp_path / "model.onnx"))

    return read


def test_nodes_inputs_and_weights_are_described(graph_of):
    read = graph_of(onnx_models.matmul())
    (node,) = read.graph.nodes
    assert (node.op_type, node.domain, node.inputs, node.outputs) == ("MatMul", "", ("x", "w"), ("y",))
    assert read.graph.inputs == {"x": TensorType("float32", ("batch", 64))}
    assert read.graph.initializers["w"].shape == (64, 64)
    assert read.graph.initializers["w"].values is None
    assert (read.opset, read.ir_version) == ({"": onnx_models.OPSET}, onnx_models.IR_VERSION)


def test_small_tensors_keep_their_values_wherever_they_stand(graph_of):
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array([4, -1]))),
        helper.make_node("Reshape", ["x", "c"], ["z"], allowzero=1),
        helper.make_node("Add", ["z", "one"], ["y"]),
    ]
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    x = onnx_models.tensor("x", TensorProto.FLOAT, ["n", 4])
    y = onnx_models.tensor("y", TensorProto.FLOAT, [4, "m"])
    read = graph_of(onnx_models.model(nodes, [x], [y], [one]))
    assert read.graph.nodes[0].attributes["value"].values.tolist() == [4, -1]
    assert read.graph.nodes[1].attributes["allowzero"] == 1
    assert read.graph.initializers["one"].values.tolist() == [1.0]


def test_subgraphs_are_gone_through(graph_of):
    read = graph_of(onnx_models.if_with_weights())
    assert read.graph.nodes[0].subgraphs.keys() == {"then_branch", "else_branch"}
    assert len(list(read.graph.all_nodes())) > 1


def test_what_a_file_claims_about_tensors_that_are_computed_is_not_believed(graph_of):
    proto = onnx_models.matmul()
    proto.graph.node[0].output[0] = "h"
    proto.graph.node.append(helper.make_node("Identity", ["h"], ["y"]))
    proto.graph.value_info.append(onnx_models.tensor("h", TensorProto.FLOAT, [7, 7, 7]))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 63
    types = graph_of(proto).graph.types
    assert types == {"h": TensorType("float32", ("batch", 64)), "y": TensorType("float32", ("batch", 64))}


def test_weights_are_passed_over_and_nothing_else(tmp_path: Path):
    big = numpy_helper.from_array(np.zeros((3000, 1000), np.float32), "big")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=big),
        helper.make_node("Add", ["x", "c"], ["h"]),
        helper.make_node("Add", ["h", "w"], ["y"]),
    ]
    x, y = (onnx_models.tensor(name, TensorProto.FLOAT, [3000, 1000]) for name in "xy")
    proto = onnx_models.model(nodes, [x], [y], [numpy_helper.from_array(np.zeros((3000, 1000), np.float32), "w")])
    structure = onnx_structure.without_weights(proto.SerializeToString())
    assert len(structure) < 2000
    left = ModelProto.FromString(structure)
    for tensor in (proto.graph.node[0].attribute[0].t, proto.graph.initializer[0]):
        tensor.ClearField("raw_data")
    assert left == proto
    read = read_graph(onnx_models.save(proto, tmp_path / "m.onnx"))
    assert read.graph.initializers["w"].shape == (3000, 1000)


@pytest.mark.parametrize("data", [b"", b"\x00", b"no model", b"\x3a\xff\xff\xff\xff\x0f", b"\x3b\x3c", b"\xff" * 100])
def test_bytes_that_are_no_model_are_refused_as_such(tmp_path: Path, data: bytes):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(InvalidModel):
        read_graph(path)


def _doubles(name: str, called: tuple[str, str] = ("", "Add")) -> onnx.FunctionProto:
    nodes = [
        helper.make_node(called[1], ["a", "a"] if called[1] == "Add" else ["a"], ["h"], domain=called[0]),
        helper.make_node(called[1], ["h", "h"] if called[1] == "Add" else ["h"], ["b"], domain=called[0]),
    ]
    imports = [helper.make_opsetid("", onnx_models.OPSET), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], nodes, imports)


def _calls(functions: list[onnx.FunctionProto], name: str) -> ModelProto:
    x, y = (onnx_models.tensor(n, TensorProto.FLOAT, ["n", 4]) for n in "xy")
    node = helper.make_node(name, ["x"], ["y"], domain="local")
    proto = onnx_models.model([node], [x], [y], opset={"": onnx_models.OPSET, "local": 1})
    proto.functions.extend(functions)
    return proto


def test_functions_are_put_in_place(graph_of):
    read = graph_of(_calls([_doubles("outer", ("local", "inner")), _doubles("inner")], "outer"))
    assert [node.op_type for node in read.graph.nodes] == ["Add"] * 4


def test_functions_that_would_never_end_stay_calls(graph_of):
    read = graph_of(_calls([_doubles("one", ("local", "two")), _doubles("two", ("local", "one"))], "one"))
    assert [(node.domain, node.op_type) for node in read.graph.nodes] == [("local function of local", "one")]


def test_a_function_with_the_name_of_a_standard_operator_is_none(graph_of):
    function = _doubles("Relu", ("", "Relu"))
    function.domain = ""
    proto = _calls([function], "Relu")
    proto.graph.node[0].domain = ""
    read = graph_of(proto)
    assert [(node.domain, node.op_type) for node in read.graph.nodes] == [("local function of ", "Relu")]


def test_what_a_caller_may_set_decides_no_shape(graph_of):
    shape = numpy_helper.from_array(np.array([-1, 2]), "shape")
    x, y = onnx_models.tensor("x", TensorProto.FLOAT, ["n", 4]), onnx_models.tensor("y", TensorProto.FLOAT, [None] * 2)
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    fixed = onnx_models.model(nodes, [x], [y], [shape])
    assert graph_of(fixed).graph.types["y"].shape[1] == 2
    settable = onnx_models.model(nodes, [x, onnx_models.tensor("shape", TensorProto.INT64, [2])], [y], [shape])
    read = graph_of(settable)
    assert 2 not in (read.graph.types["y"].shape or ())
    assert read.graph.initializers["shape"].values.tolist() == [-1, 2]


def test_an_attribute_that_is_stated_twice_is_not_known(graph_of):
    proto = onnx_models.softmax()
    softmax = proto.graph.node[-1]
    softmax.attribute.append(helper.make_attribute("axis", 0))
    assert graph_of(proto).graph.nodes[-1].attributes["axis"] == UnreadAttribute("stated twice")


def test_functions_that_would_fill_the_memory_stay_calls(graph_of):
    chain = [_doubles(f"f{i}", ("local", f"f{i + 1}")) for i in range(40)] + [_doubles("f40")]
    assert onnx_functions.MOST_NODES < 2**40
    read = graph_of(_calls(chain, "f0"))
    assert [(node.domain, node.op_type) for node in read.graph.nodes] == [("local function of local", "f0")]


def test_types_of_very_many_nodes_are_not_inferred(graph_of):
    """ONNX holds Python's lock meanwhile, and with it the event loop of a server that loads the version."""

    def read(nodes: int) -> Graph:
        names = ["x", *map(str, range(1, nodes)), "y"]
        chain = [helper.make_node("Identity", [one], [other]) for one, other in pairwise(names)]
        x, y = (onnx_models.tensor(name, TensorProto.FLOAT, [4]) for name in "xy")
        return graph_of(onnx_models.model(chain, [x], [y])).graph

    assert read(onnx_functions.MOST_NODES + 1).types.keys() == {"y"}, "as the file says"
    assert "1" in read(100).types


@pytest.mark.parametrize("spelled", ["", "ai.onnx"])
@pytest.mark.parametrize(("opset", "domain"), [(onnx_models.OPSET, ""), (14, ""), (13, " of operator set 13")])
def test_operators_of_a_function_are_the_models_where_both_operator_sets_define_them_alike(
    graph_of, spelled, opset, domain
):
    """`Add` is the same since operator set 14."""
    proto = _calls([_doubles("one")], "one")
    proto.functions[0].opset_import[0].CopyFrom(helper.make_opsetid(spelled, opset))
    read = graph_of(proto)
    assert {node.domain for node in read.graph.nodes} == {domain and f"ai.onnx{domain}"}
    assert {node.operator for node in read.graph.nodes} == {("", "Add")}
    assert read.opset[""] == onnx_models.OPSET


def test_nodes_are_in_an_order_in_which_they_can_run(graph_of):
    proto = onnx_models.softmax()
    order = [node.outputs for node in graph_of(proto).graph.nodes]
    nodes = list(reversed(proto.graph.node))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert len(order) > 1
    assert [node.outputs for node in graph_of(proto).graph.nodes] == order
