from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnx_models
from turnout.errors import InvalidModel
from turnout.registry.manifest.signature import DataType, TensorSpec
from turnout.registry.onnx.external_data import ExternalFile
from turnout.registry.onnx.model import ModelFacts, read_model


@pytest.fixture
def facts(tmp_path: Path):
    def read(proto: ModelProto) -> ModelFacts:
        return read_model(onnx_models.save(proto, tmp_path / "model.onnx"))

    return read


def test_a_symbolic_dimension_keeps_its_name_and_a_fixed_one_its_size(facts):
    signature = facts(onnx_models.matmul()).signature
    assert signature.inputs == (TensorSpec("x", DataType.FLOAT32, ("batch", 64)),)
    assert signature.outputs == (TensorSpec("y", DataType.FLOAT32, ("batch", 64)),)


def test_a_scalar_has_no_dimensions(facts):
    assert facts(onnx_models.scalar()).signature.inputs[0].shape == ()


@pytest.mark.parametrize("unknown", [None, "", -1])
def test_a_dimension_without_name_or_size_takes_anything(facts, unknown):
    proto = onnx_models.identity(shape=[2, 3])
    dimension = proto.graph.input[0].type.tensor_type.shape.dim[0]
    dimension.Clear()
    if unknown == "":
        dimension.dim_param = ""
    elif unknown == -1:
        dimension.dim_value = -1
    assert facts(proto).signature.inputs[0].shape == (None, 3)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        (TensorProto.BOOL, DataType.BOOL),
        (TensorProto.UINT8, DataType.UINT8),
        (TensorProto.UINT16, DataType.UINT16),
        (TensorProto.UINT32, DataType.UINT32),
        (TensorProto.UINT64, DataType.UINT64),
        (TensorProto.INT8, DataType.INT8),
        (TensorProto.INT16, DataType.INT16),
        (TensorProto.INT32, DataType.INT32),
        (TensorProto.INT64, DataType.INT64),
        (TensorProto.FLOAT16, DataType.FLOAT16),
        (TensorProto.BFLOAT16, DataType.BFLOAT16),
        (TensorProto.FLOAT, DataType.FLOAT32),
        (TensorProto.DOUBLE, DataType.FLOAT64),
        (TensorProto.STRING, DataType.STRING),
    ],
)
def test_every_dtype_of_the_protocol_is_read(facts, element, dtype):
    signature = facts(onnx_models.identity(element)).signature
    assert signature.inputs[0].dtype is signature.outputs[0].dtype is dtype


def test_the_dtypes_read_are_all_there_are(facts):
    ours = set()
    for element in TensorProto.DataType.values():
        try:
            ours.add(facts(onnx_models.identity(element)).signature.inputs[0].dtype)
        except InvalidModel:
            continue
    assert ours == set(DataType)


@pytest.mark.parametrize("element", [TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.COMPLEX64, 0, 4711])
def test_an_element_type_that_the_protocol_cannot_carry_is_refused_by_name(facts, element):
    name = TensorProto.DataType.Name(element) if element < 4711 else "4711"
    with pytest.raises(InvalidModel, match=rf"^input 'x' has element type {name}, expected one of bfloat16, bool"):
        facts(onnx_models.identity(element))


def test_a_sequence_is_refused_by_name(facts):
    with pytest.raises(InvalidModel, match="output 'ys' has type sequence; Turnout carries dense tensors only"):
        facts(onnx_models.sequence_output())


def test_a_map_is_refused_by_name(facts):
    proto = onnx_models.identity()
    proto.graph.input[0].type.map_type.key_type = TensorProto.INT64
    with pytest.raises(InvalidModel, match="input 'x' has type map"):
        facts(proto)


def test_an_input_that_is_an_initialiser_has_a_default(facts):
    signature = facts(onnx_models.add_with_default()).signature
    assert [(spec.name, spec.has_default) for spec in signature.inputs] == [("x", False), ("bias", True)]


def test_before_ir_version_4_an_initialiser_is_no_input(facts):
    signature = facts(onnx_models.add_with_default(ir_version=3)).signature
    assert [spec.name for spec in signature.inputs] == ["x"]


@pytest.mark.parametrize(
    "proto",
    [
        onnx_models.matmul(),
        onnx_models.add_with_default(),
        onnx_models.add_with_default(ir_version=3),
        onnx_models.string_identity(),
        onnx_models.bfloat16_cast(),
        onnx_models.scalar(),
        onnx_models.if_with_weights(),
        onnx_models.constant_node(),
    ],
)
def test_the_signature_is_what_the_runtime_sees(facts, proto):
    signature = facts(proto).signature
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    required = [(i.name, tuple(i.shape)) for i in session.get_inputs()]
    optional = [(i.name, tuple(i.shape)) for i in session.get_overridable_initializers()]
    assert [(s.name, s.shape) for s in signature.inputs if not s.has_default] == required
    assert [(s.name, s.shape) for s in signature.inputs if s.has_default] == optional
    assert [s.name for s in signature.outputs] == [o.name for o in session.get_outputs()]


def test_both_spellings_of_the_default_domain_are_one(facts):
    proto = onnx_models.model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [onnx_models.tensor("x", TensorProto.FLOAT, [1])],
        [onnx_models.tensor("y", TensorProto.FLOAT, [1])],
        opset={"com.microsoft": 1, "ai.onnx": 17},
    )
    read = facts(proto)
    assert dict(read.opset) == {"": 17, "com.microsoft": 1}
    assert read.ir_version == onnx_models.IR_VERSION


def test_one_domain_in_two_versions_is_refused(facts):
    proto = onnx_models.identity()
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 16))
    with pytest.raises(InvalidModel, match=r"imports operator set ai\.onnx in two versions"):
        facts(proto)


def test_a_model_without_an_operator_set_is_refused(facts):
    proto = onnx_models.identity()
    del proto.opset_import[:]
    with pytest.raises(InvalidModel, match="imports no operator set"):
        facts(proto)


def test_an_empty_file_is_called_empty(tmp_path: Path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(InvalidModel, match="the file is empty, not an ONNX model"):
        read_model(tmp_path / "model.onnx")


def test_a_model_without_outputs_is_refused(facts):
    proto = onnx_models.identity()
    del proto.graph.output[:]
    with pytest.raises(InvalidModel, match="the graph has no outputs"):
        facts(proto)


def test_two_inputs_of_one_name_are_refused(facts):
    proto = onnx_models.identity()
    proto.graph.input.append(proto.graph.input[0])
    with pytest.raises(InvalidModel, match="two inputs are named 'x'"):
        facts(proto)


def test_an_input_without_a_shape_is_refused_with_the_way_out(facts):
    proto = onnx_models.identity()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(InvalidModel, match="input 'x' has no shape; give it one in the ONNX file"):
        facts(proto)


def test_a_dimension_that_json_would_round_is_refused(facts):
    with pytest.raises(InvalidModel, match="input 'x' has a dimension of 9007199254740993"):
        facts(onnx_models.identity(shape=[2**53 + 1]))


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b'{"a": 1}', b"PK\x03\x04 not a model"])
def test_what_is_no_protobuf_is_refused(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(InvalidModel, match="the file is not an ONNX model"):
        read_model(path)


def test_a_name_that_is_no_utf_8_is_refused(tmp_path):
    data = onnx_models.identity(shape=["NNNN"]).SerializeToString().replace(b"NNNN", b"\xff\xfe\xfd\xfc")
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(InvalidModel, match="a dimension of input 'x' is not UTF-8"):
        read_model(tmp_path / "model.onnx")


def test_external_data_is_found_and_not_read(tmp_path):
    path = onnx_models.save_external(tmp_path, location="deep/weights.data")
    (tmp_path / "deep" / "weights.data").unlink()
    assert read_model(path).external == (ExternalFile("deep/weights.data", 64 * 64 * 4),)


def test_a_file_that_several_tensors_share_must_reach_the_end_of_the_last(facts):
    proto = onnx_models.matmul()
    bias = numpy_helper.from_array(np.zeros(64, np.float32), "bias")
    proto.graph.initializer.append(bias)
    onnx_models.move_out(proto.graph.initializer[0], "w.data", offset=0)
    onnx_models.move_out(proto.graph.initializer[1], "./w.data", offset=1 << 20)
    assert facts(proto).external == (ExternalFile("w.data", (1 << 20) + 64 * 4),)


def test_external_data_is_found_in_the_branches_of_an_if(facts):
    proto = onnx_models.if_with_weights()
    for attribute in proto.graph.node[0].attribute:
        onnx_models.move_out(attribute.g.initializer[0], f"{attribute.name}.data")
    assert [file.path for file in facts(proto).external] == ["else_branch.data", "then_branch.data"]


def test_external_data_is_found_in_attributes(facts):
    proto = onnx_models.constant_node()
    onnx_models.move_out(proto.graph.node[0].attribute[0].t, "constant.data")
    assert [file.path for file in facts(proto).external] == ["constant.data"]


def test_external_data_is_found_in_functions_and_sparse_tensors(facts):
    proto = onnx_models.identity()
    constant = onnx_models.constant_node().graph.node[0]
    onnx_models.move_out(constant.attribute[0].t, "function.data")
    proto.functions.append(
        helper.make_function("here", "Five", [], ["c"], [constant], [helper.make_opsetid("", onnx_models.OPSET)])
    )
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "sparse_at")
    onnx_models.move_out(values, "values.data")
    onnx_models.move_out(indices, "indices.data")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    assert [file.path for file in facts(proto).external] == ["function.data", "indices.data", "values.data"]


@pytest.mark.parametrize(
    "location",
    [
        "../weights.data",
        "deep/../../weights.data",
        "/etc/passwd",
        "..",
        ".",
        "deep/",
        "a\\b",
        "a\0b",
        "a\nb",
        "\x1b[31m",
        "a\u202eb",
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_external_data_that_leaves_the_directory_is_refused(facts, location):
    proto = onnx_models.matmul()
    onnx_models.move_out(proto.graph.initializer[0], location)
    with pytest.raises(InvalidModel, match=r"^tensor 'w' keeps its data in"):
        facts(proto)


@pytest.mark.parametrize(
    "location", ["manifest.json", "model.onnx", "golden/case.npz", "./model.onnx", "MODEL.ONNX", "Golden/case"]
)
def test_external_data_may_not_take_a_name_of_the_registrys(facts, location):
    proto = onnx_models.matmul()
    onnx_models.move_out(proto.graph.initializer[0], location)
    with pytest.raises(InvalidModel, match="a name that the registry needs for itself"):
        facts(proto)


def test_files_of_external_data_that_differ_in_case_only_are_refused(facts):
    proto = onnx_models.if_with_weights()
    for node in proto.graph.node:
        for attribute, location in zip(node.attribute, ("w.data", "W.data"), strict=True):
            onnx_models.move_out(attribute.g.initializer[0], location)
    with pytest.raises(InvalidModel, match=r"'W\.data' and 'w\.data' differ in case only"):
        facts(proto)


@pytest.mark.parametrize(("key", "value"), [("offset", "-1"), ("length", "1_0"), ("offset", ""), ("length", "9" * 20)])
def test_external_data_with_an_extent_that_is_no_number_of_bytes_is_refused(facts, key, value):
    proto = onnx_models.matmul()
    weights = proto.graph.initializer[0]
    onnx_models.move_out(weights, "w.data")
    del weights.external_data[1:]
    entry = weights.external_data.add()
    entry.key, entry.value = key, value
    with pytest.raises(InvalidModel, match=f"for the {key} of its external data, expected a number of bytes"):
        facts(proto)


def test_external_data_that_says_its_place_twice_is_refused(facts):
    proto = onnx_models.matmul()
    weights = proto.graph.initializer[0]
    onnx_models.move_out(weights, "w.data")
    weights.external_data.append(onnx.StringStringEntryProto(key="location", value="../other"))
    with pytest.raises(InvalidModel, match="states the location of its external data twice"):
        facts(proto)


def test_external_data_without_a_place_is_refused(facts):
    proto = onnx_models.matmul()
    onnx_models.move_out(proto.graph.initializer[0], "")
    with pytest.raises(InvalidModel, match="does not say where its external data is"):
        facts(proto)


def test_a_compiled_graph_in_a_file_that_no_digest_covers_is_refused(facts):
    proto = onnx_models.identity()
    proto.graph.node.append(helper.make_node("EPContext", ["x"], ["z"], domain="com.microsoft", embed_mode=0))
    with pytest.raises(InvalidModel, match="EPContext node keeps its compiled graph in a file of its own"):
        facts(proto)
