"""Which graphs let a request end the process that runs them."""

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnx_models
from onnx_models import model, tensor
from turnout.registry.onnx.graph_reader import describe
from turnout.serving.isolation.hazards import Wish, decide, find_hazard

INTEGERS = [
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
]  # fmt: skip


def hazard(proto: ModelProto) -> str:
    found = find_hazard(describe(proto))
    return "" if found is None else str(found)


def of_nodes(
    *nodes, constants=None, element=TensorProto.INT64, shape=("n",), inputs=("a", "b"), opset=18
) -> ModelProto:
    return model(
        nodes,
        [tensor(name, element, shape) for name in inputs],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
        opset={"": 18, "custom": 1, "com.microsoft": 1, "ai.onnx.ml": 3},
    )


def node(op_type: str, *inputs: str, output: str = "y", domain: str = "", **attributes):
    return helper.make_node(op_type, inputs, [output], domain=domain, **attributes)


@pytest.mark.parametrize("element", INTEGERS, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("op_type", ["Div", "Mod"])
def test_an_integer_division_by_an_input_is_one(op_type, element) -> None:
    assert "integer division by b" in hazard(onnx_models.integer_division(op_type, element))


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_a_division_of_floats_is_none(element) -> None:
    assert not hazard(onnx_models.integer_division("Div", element))


@pytest.mark.parametrize(
    ("constant", "expected"), [(2, False), ([2, 7], False), (-2, False), (-1, True), (0, True), ([3, -1], True)]
)
def test_a_constant_divisor_is_one_where_it_is_0_or_minus_1(constant, expected) -> None:
    assert bool(hazard(of_nodes(node("Div", "a", "c"), constants={"c": np.asarray(constant, np.int64)}))) is expected


@pytest.mark.parametrize(("constant", "expected"), [(2, False), (-1, True)])
def test_a_constant_is_seen_through_constant_nodes_casts_and_shapes(constant, expected) -> None:
    proto = of_nodes(
        helper.make_node("Constant", [], ["c"], value_int=constant),
        node("Cast", "c", output="d", to=TensorProto.INT32),
        node("Unsqueeze", "d", "axis", output="e"),
        node("Div", "a", "e"),
        constants={"axis": np.array([0])},
        element=TensorProto.INT32,
    )
    assert bool(hazard(proto)) is expected


def test_a_default_that_a_caller_may_override_is_no_constant() -> None:
    proto = of_nodes(node("Div", "a", "c"), constants={"c": np.array([2])}, inputs=("a", "c"))
    assert hazard(proto)


def test_a_divisor_that_was_computed_from_constants_is_not_known_and_so_is_one() -> None:
    proto = of_nodes(node("Sub", "c", "c", output="d"), node("Div", "a", "d"), constants={"c": np.array([2])})
    assert "not known" in hazard(proto)


def test_a_size_of_an_input_is_never_minus_1() -> None:
    assert not hazard(of_nodes(node("Shape", "b", output="s"), node("Div", "a", "s")))
    taken = of_nodes(
        node("Shape", "b", output="s"), node("Sub", "s", "one", output="d"), node("Div", "a", "d"),
        constants={"one": np.array([1])},
    )  # fmt: skip
    assert hazard(taken)


@pytest.mark.parametrize("op_type", ["Max", "Clip"])
def test_a_divisor_that_is_kept_above_0_is_none(op_type) -> None:
    assert not hazard(
        of_nodes(node(op_type, "b", "one", output="d"), node("Div", "a", "d"), constants={"one": np.int64(1)})
    )
    assert hazard(
        of_nodes(node(op_type, "b", "low", output="d"), node("Div", "a", "d"), constants={"low": np.int64(-5)})
    )


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [("", "hundred", True), ("one", "minus", True), ("one", "b", True), ("one", "hundred", False), ("one", "", False)],
)
def test_a_clip_keeps_a_divisor_above_0_only_by_bounds_that_both_are(low, high, expected) -> None:
    """ONNX Runtime takes the upper bound where it is below the lower one."""
    constants = {"one": np.int64(1), "hundred": np.int64(100), "minus": np.int64(-1)}
    proto = of_nodes(node("Clip", "b", low, high, output="d"), node("Div", "a", "d"), constants=constants)
    assert bool(hazard(proto)) is expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (("Sub", "s", "two"), True),
        (("Identity", "minus"), True),
        (("Identity", "s"), False),
        (("Add", "s", "two"), False),
    ],
)
def test_a_divisor_that_a_branch_decides_may_be_what_each_of_them_makes(other, expected) -> None:
    branches = [
        helper.make_graph([node(*made, output=name)], name, [], [tensor(name, TensorProto.INT64, [1])])
        for name, made in (("t", other), ("e", ("Identity", "s")))
    ]
    proto = model(
        [
            node("Shape", "b", output="s"),
            helper.make_node("If", ["flag"], ["d"], then_branch=branches[0], else_branch=branches[1]),
            node("Div", "a", "d"),
        ],
        [tensor("flag", TensorProto.BOOL, []), *(tensor(name, TensorProto.INT64, ["n"]) for name in "ab")],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.array([value]), name) for name, value in (("two", 2), ("minus", -1))],
    )
    assert bool(hazard(proto)) is expected


@pytest.mark.parametrize(("factor", "expected"), [(6148914691236517205, True), (4, False)])
@pytest.mark.parametrize("op_type", ["Mul", "Add"])
def test_a_size_that_wraps_around_may_be_minus_1(op_type, factor, expected) -> None:
    proto = of_nodes(
        node("Shape", "b", output="s"), node(op_type, "s", "k", output="d"), node("Div", "a", "d"),
        constants={"k": np.array([factor])},
    )  # fmt: skip
    assert bool(hazard(proto)) is expected


def test_a_division_inside_a_branch_is_found() -> None:
    inner = helper.make_graph([node("Div", "a", "b", output="z")], "inner", [], [tensor("z", TensorProto.INT64, ["n"])])
    proto = model(
        [helper.make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner)],
        [tensor("flag", TensorProto.BOOL, []), *(tensor(name, TensorProto.INT64, ["n"]) for name in "ab")],
        [tensor("y", TensorProto.INT64, ["n"])],
    )
    assert "integer division by b" in hazard(proto)


@pytest.mark.parametrize(
    "made",
    [
        node("ConstantOfShape", "a"), node("Expand", "x", "a"), node("Tile", "x", "a"),
        node("Range", "zero", "a", "one"),
        node("Pad", "x", "a"), node("Resize", "x", "", "", "a"), node("OneHot", "x", "a", "x"),
        node("CenterCropPad", "x", "a"), node("HannWindow", "a"), node("DFT", "x", "a"),
        node("MelWeightMatrix", "a", "one", "one", "zero", "one"),
        node("Pad", "x", "a", domain="com.microsoft"), node("MaxUnpool", "x", "x", "a"),
    ],
    ids=lambda made: f"{made.domain}.{made.op_type}",
)  # fmt: skip
def test_a_size_that_is_a_value_of_the_request_is_one(made) -> None:
    constants = {"x": np.ones((1, 1, 2, 2), np.float32), "zero": np.int64(0), "one": np.int64(1)}
    assert "takes as much memory as the value of a says" in hazard(of_nodes(made, constants=constants))
    from_sizes = of_nodes(node("Shape", "b", output="a"), made, constants=constants, inputs=("b",))
    assert not hazard(from_sizes)


def test_where_a_value_only_decides_among_sizes_of_inputs_it_is_none() -> None:
    """What PyTorch writes for an `expand`: a size of -1 is replaced."""
    proto = of_nodes(
        node("Shape", "b", output="s"), node("Equal", "s", "minus", output="none"),
        node("Where", "none", "one", "s", output="size"), node("Expand", "x", "size"),
        constants={"minus": np.array([-1]), "one": np.array([1]), "x": np.float32(1)},
    )  # fmt: skip
    assert not hazard(proto)


@pytest.mark.parametrize(
    ("constant", "expected"), [(np.uint8(255), True), (np.float32(-1.2), True), (np.uint8(4), False)]
)
def test_a_constant_that_a_cast_makes_another_is_not_taken_for_itself(constant, expected) -> None:
    proto = of_nodes(
        node("Cast", "c", output="d", to=TensorProto.INT8), node("Div", "a", "d"),
        constants={"c": np.asarray(constant)}, element=TensorProto.INT8,
    )  # fmt: skip
    assert bool(hazard(proto)) is expected


def test_a_size_in_a_narrow_type_may_be_minus_1() -> None:
    for to, expected in ((TensorProto.INT64, False), (TensorProto.INT32, True)):
        cast = node("Cast", "s", output="d", to=to)
        proto = of_nodes(node("Shape", "b", output="s"), cast, node("Div", "a", "d"), element=to)
        assert bool(hazard(proto)) is expected


def test_a_value_that_only_picks_among_constants_is_none() -> None:
    picked = node("Gather", "table", "b", output="d")
    assert not hazard(of_nodes(picked, node("Div", "a", "d"), constants={"table": np.array([2, 8])}))
    assert hazard(of_nodes(picked, node("Div", "a", "d"), constants={"table": np.array([2, -1])}))
    assert not hazard(of_nodes(picked, node("Expand", "a", "d"), constants={"table": np.array([2, 8])}))


@pytest.mark.parametrize("rank", [4, 5])
def test_a_transposed_convolution_is_one_on_volumes_of_free_sizes(rank) -> None:
    sizes = ["n", 1, *("dhw"[: rank - 2])]
    kernel = numpy_helper.from_array(np.ones((1, 1, *(2,) * (rank - 2)), np.float32), "k")
    proto = model(
        [node("ConvTranspose", "x", "k")], [tensor("x", TensorProto.FLOAT, sizes)],
        [helper.make_empty_tensor_value_info("y")], [kernel],
    )  # fmt: skip
    assert bool(hazard(proto)) is (rank == 5)


def test_a_convolution_is_one_where_the_kernel_comes_from_the_request() -> None:
    images = tensor("x", TensorProto.FLOAT, ["n", "c", 8, 8])
    kernels = tensor("k", TensorProto.FLOAT, [1, "c", 3, 3])
    constant = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "k")
    y = helper.make_empty_tensor_value_info("y")
    assert "does not end" in hazard(model([node("Conv", "x", "k")], [images, kernels], [y]))
    assert not hazard(model([node("Conv", "x", "k")], [images], [y], [constant]))


def test_a_loop_of_as_many_rounds_as_the_request_says_is_one_and_a_counted_one_is_not() -> None:
    proto = onnx_models.slow()
    assert "runs for as long" in hazard(proto)
    (loop,) = [n for n in proto.graph.node if n.op_type == "Loop"]
    proto.graph.initializer.append(numpy_helper.from_array(np.int64(7), "seven"))
    loop.input[0] = "seven"
    assert not hazard(proto)


@pytest.mark.parametrize(("most", "expected"), [(2**63 - 1, True), (10**9, True), (100, False)])
@pytest.mark.parametrize("cast", [False, True])
def test_a_loop_that_only_its_condition_ends_is_one(most, expected, cast) -> None:
    """What PyTorch writes for a `while`: as many rounds as there can be, and a condition."""
    proto = onnx_models.slow()
    (loop,) = [n for n in proto.graph.node if n.op_type == "Loop"]
    proto.graph.initializer.append(numpy_helper.from_array(np.int64(most), "most"))
    loop.input[0] = "rounds" if cast else "most"
    if cast:
        proto.graph.node.insert(0, node("Cast", "most", output="rounds", to=TensorProto.INT64))
    assert bool(hazard(proto)) is expected


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ({}, ("n", 2, "t"), False),
        ({"scan_input_axes": [0]}, ("n", 2, "t"), False),
        ({"scan_input_axes": [1]}, ("n", 2, "t"), True),
        ({"scan_input_axes": [-1]}, ("n", 2, "t"), True),
        ({"scan_input_axes": [1]}, ("n", 2, 3), False),  # what lies before the axis may be empty
        ({"scan_output_axes": [1]}, ("n", 2, 3), True),
        ({"scan_output_axes": [1]}, (4, 2, 3), False),
        ({"num_scan_inputs": 0, "scan_input_axes": [0]}, (4, 2, 3), False),  # ONNX Runtime refuses it, and says why
        ({"num_scan_inputs": 0, "scan_output_axes": [0]}, (4, 2, 3), False),
    ],
)
def test_a_scan_is_one_where_it_moves_an_axis_of_a_tensor_that_may_be_empty(axes, shape, expected) -> None:
    rounds = helper.make_graph(
        [node("Relu", "slice", output="changed")],
        "body",
        [tensor("slice", TensorProto.FLOAT, None)],
        [tensor("changed", TensorProto.FLOAT, None)],
    )
    scan = node("Scan", "a", body=rounds, **{"num_scan_inputs": 1, **axes})
    assert bool(hazard(of_nodes(scan, element=TensorProto.FLOAT, shape=shape, inputs=["a"]))) is expected


@pytest.mark.parametrize("op_type", ["LSTM", "GRU"])
def test_a_recurrent_operator_is_one_where_rows_are_free(op_type) -> None:
    proto = onnx_models.recurrent(op_type)
    assert op_type in hazard(proto)
    for axis, size in enumerate((3, 1)):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    assert not hazard(proto)


@pytest.mark.parametrize("wish", ["auto", "process"])
def test_a_graph_that_cannot_be_analyzed_is_left_to_a_child_process(wish: Wish) -> None:
    """ONNX Runtime refuses it there, and says what it lacks: the loop's body."""
    assert decide(wish, describe(of_nodes(node("Loop", "a", "", "b")))).process


def test_a_custom_operator_is_one() -> None:
    assert "is a custom operator" in hazard(of_nodes(node("Secret", "a", domain="custom")))
    assert not hazard(of_nodes(node("Gelu", "a", domain="com.microsoft"), element=TensorProto.FLOAT))
    assert not hazard(of_nodes(node("Scaler", "a", domain="ai.onnx.ml"), element=TensorProto.FLOAT))


@pytest.mark.parametrize(
    "proto",
    [
        onnx_models.matmul(), onnx_models.softmax(), onnx_models.look_up(), onnx_models.string_identity(),
        onnx_models.if_with_weights(), onnx_models.constant_node(), onnx_models.divides_safely(),
    ],
)  # fmt: skip
def test_ordinary_models_are_none(proto) -> None:
    assert not hazard(proto)


def test_the_setting_comes_before_the_graph() -> None:
    graph = describe(onnx_models.integer_division())
    assert str(decide("auto", graph)).startswith("process (auto: Div (divide) ")
    assert str(decide("thread", graph)) == "thread (the configuration says so)"
    assert str(decide("process", describe(onnx_models.matmul()))) == "process (the configuration says so)"


def _branches(*inner: NodeProto):
    """Yields `r` by one of two nodes: the condition is the request's."""
    made = [helper.make_graph([one], "branch", [], [helper.make_empty_tensor_value_info("out")]) for one in inner]
    return [
        node("Cast", "b", output="flags", to=TensorProto.BOOL),
        node("If", "flags", output="r", then_branch=made[0], else_branch=made[1]),
    ]


_ADDS_A_DIMENSION = helper.make_graph(
    [node("Unsqueeze", "v", "axis", output="longer"), node("Identity", "going", output="goes on")],
    "body",
    [
        onnx_models.tensor("round", TensorProto.INT64, []),
        onnx_models.tensor("going", TensorProto.BOOL, []),
        helper.make_empty_tensor_value_info("v"),
    ],
    [onnx_models.tensor("goes on", TensorProto.BOOL, []), helper.make_empty_tensor_value_info("longer")],
)
OF_ANY_RANK = {
    "reshaped as a request says": [node("Reshape", "a", "b", output="r")],
    "without any axis of size 1": [node("Squeeze", "a", output="r")],
    "with the axes that a request names": [node("Unsqueeze", "a", "b", output="r")],
    "summed over axes that a request names": [node("ReduceSum", "a", "b", output="r", keepdims=0)],
    "of two branches": _branches(*(node("Reshape", "a", f"to {rank}", output="out") for rank in (1, 2))),
    "of two branches whose ranks ONNX does not know": [
        node("Gelu", "a", output="q", domain="com.microsoft"),
        *_branches(node("Unsqueeze", "q", "axis", output="out"), node("Identity", "q", output="out")),
    ],
    "carried by a loop that adds a dimension in each round": [
        node("Loop", "two", "", "a", output="r", body=_ADDS_A_DIMENSION)
    ],
    "computed from one": [node("Reshape", "a", "b", output="q"), node("Relu", "q", output="r")],
    "with the shape of one": [
        node("Reshape", "a", "b", output="q"),
        node("Shape", "q", output="s"),
        node("Expand", "a", "s", output="r"),
    ],
    "out of a sequence": [
        node("Unsqueeze", "a", "first", output="q"),
        node("SequenceConstruct", "a", "q", output="s"),
        node("SequenceAt", "s", "first", output="r"),
    ],
}
OF_ONE_RANK = {
    "reshaped to a length": [node("Shape", "a", output="s"), node("Reshape", "a", "s", output="r")],
    "of an operator that ONNX does not know": [node("Gelu", "a", output="r", domain="com.microsoft")],
    "reshaped as one is": [
        node("Gelu", "a", output="q", domain="com.microsoft"),
        node("Shape", "q", output="s"),
        node("Reshape", "a", "s", output="r"),
    ],
    "without a certain axis of one": [
        node("Gelu", "a", output="q", domain="com.microsoft"),
        node("Squeeze", "q", "axis", output="r"),
    ],
    "flat": [node("Reshape", "a", "b", output="q"), node("Flatten", "q", output="r")],
    "of two branches": _branches(*[node("Reshape", "a", "to 1", output="out")] * 2),
}
NUMBERS = {
    "two": np.int64(2),
    "first": np.int64(0),
    "axis": np.array([0]),
    "to 1": np.array([-1]),
    "to 2": np.array([1, -1]),
}


@pytest.mark.parametrize("op_type", ["Concat", "ReverseSequence", "Unique", "Einsum"])
@pytest.mark.parametrize("made", OF_ANY_RANK)
def test_an_operator_that_assumes_a_rank_is_one_where_a_request_decides_it(made, op_type) -> None:
    how = {"axis": 0} if op_type == "Concat" else {"equation": "i,i->i"} if op_type == "Einsum" else {}
    proto = of_nodes(*OF_ANY_RANK[made], node(op_type, "r", "a", **how), constants=NUMBERS)
    assert "too few dimensions or too many, which a request decides" in hazard(proto)
    assert not hazard(of_nodes(*OF_ANY_RANK[made], node("Add", "r", "a"), constants=NUMBERS))


@pytest.mark.parametrize("made", OF_ONE_RANK)
def test_a_rank_that_no_request_decides_is_none_though_onnx_does_not_know_it(made) -> None:
    proto = of_nodes(*OF_ONE_RANK[made], node("Concat", "r", "a", axis=0), constants=NUMBERS, element=TensorProto.FLOAT)
    assert not hazard(proto)


def test_a_model_that_onnx_runtime_refuses_is_described_all_the_same() -> None:
    """Its indices have no dimension. A Triton repository may hold it, and ONNX Runtime then says what is wrong."""
    assert not hazard(of_nodes(node("GatherND", "a", "first"), constants=NUMBERS))


@pytest.mark.parametrize(
    ("shape", "more", "expected"),
    [
        (("n", "m"), {"axis": 0}, True),
        (("n", 2), {"axis": -2}, False),
        (("n",), {"axis": 0}, False),
        (("n", "m"), {}, False),
    ],
)
def test_unique_slices_are_one_where_they_may_be_empty(shape, more, expected) -> None:
    assert bool(hazard(of_nodes(node("Unique", "a", **more), shape=shape))) is expected


def test_unique_slices_of_sizes_that_onnx_does_not_infer_are_one() -> None:
    parts = [node("Concat", "eight", "rest", output="sizes", axis=0), node("Reshape", "a", "sizes", output="r")]
    proto = of_nodes(*parts, node("Unique", "r", axis=0), constants={"eight": [8], "rest": [-1]}, shape=("n", 4))
    assert "slices are empty" in hazard(proto)


@pytest.mark.parametrize("before", ["Conv", "ConvTranspose", None])
def test_a_normalised_image_is_one_unless_it_is_known_to_be_one(before) -> None:
    images = {"element": TensorProto.FLOAT, "shape": ("n", 2, "h"), "inputs": ("a",)}
    numbers = {"k": np.ones((2, 2, 1), np.float32), "s": np.ones(2, np.float32)}
    made = [node(before, "a", "k", output="r")] if before else [node("Relu", "a", output="r")]
    proto = of_nodes(*made, node("InstanceNormalization", "r", "s", "s"), constants=numbers, **images)
    assert bool(hazard(proto)) is (before is None)
