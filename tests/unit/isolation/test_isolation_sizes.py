"""Which graphs let a request end the process by the sizes of what it sends, in operators that are quick otherwise."""

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnx_models
from onnx_models import model, tensor
from turnout.registry.onnx.graph_reader import describe
from turnout.serving.isolation.empty_inputs import never_empty
from turnout.serving.isolation.hazards import find_hazard

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
MICROSOFT = "com.microsoft"


def hazard(proto: ModelProto) -> str:
    found = find_hazard(describe(proto))
    return "" if found is None else str(found)


def node(op_type: str, inputs: str, outputs: str = "y", domain: str = MICROSOFT, **attributes):
    names = [name.strip("_") for name in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), domain=domain, **attributes)


def graph(*nodes, constants=None, element=FLOAT, **inputs) -> ModelProto:
    return model(
        nodes,
        [tensor(name, element, shape) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (constants or {}).items()],
        opset={"": 21, MICROSOFT: 1, "ai.onnx.ml": 3, "com.microsoft.nchwc": 1},
        ir_version=10,
    )


@pytest.mark.parametrize(
    ("window", "stride", "margin", "size", "expected"),
    [
        (3, 2, 0, "h", True),
        (2, 1, 0, "h", True),
        (5, 3, 0, "h", True),
        (2, 2, 0, "h", False),
        (3, 2, 1, "h", False),
        (7, 1, 3, "h", False),
        (3, 2, 0, 8, False),
    ],
)
def test_a_pool_is_one_where_its_window_may_be_larger_than_the_picture(window, stride, margin, size, expected) -> None:
    found = hazard(onnx_models.pooled(window=window, stride=stride, margin=margin, size=size))
    assert ("window is larger than the picture" in found) is expected


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_windows_that_are_fitted_to_the_picture_are_none(op_type) -> None:
    picture = ["n", 16, "h", "w"]
    for domain in ("", "com.microsoft.nchwc"):
        assert hazard(graph(node(op_type, "x", domain=domain, kernel_shape=[3, 3]), x=picture))
        for how in ("SAME_UPPER", "SAME_LOWER"):
            pool = node(op_type, "c", domain=domain, kernel_shape=[3, 3], auto_pad=how)
            steps = [node("Conv", "x w", "a", ""), node("Relu", "a", "c", ""), pool]
            assert not hazard(graph(*steps, constants={"w": (16, 16, 3, 3)}, x=picture))
        assert hazard(graph(node(op_type, "x", domain=domain, kernel_shape=[3, 3], auto_pad="VALID"), x=picture))
    for shape in (["n", 16, "h"], ["n", 16, "h", "w", "d"]):
        assert not hazard(graph(node(op_type, "x", domain="", kernel_shape=[3] * (len(shape) - 2)), x=shape))
    assert not hazard(graph(node(op_type, "x", domain="", kernel_shape=[3, 3]), element=UINT8, x=picture))


@pytest.mark.parametrize("window", [{"kernel_shape": [2, 2], "strides": [2, 2]}, {"kernel_shape": [1, 1]}])
def test_a_pool_is_one_where_what_it_is_given_may_have_no_height(window) -> None:
    """As a request may be, or what is cut out of a picture; a convolution fails where it would make such a picture."""
    pool, cut = node("MaxPool", "c", domain="", **window), node("Slice", "a two last axis", "c", "")
    convolution, constants = node("Conv", "x w", "a", ""), {"w": (16, 16, 3, 3)}
    places = {name: np.array([value]) for name, value in (("two", 2), ("last", 2**40), ("axis", 2))}
    proto = graph(convolution, cut, pool, constants=constants, x=["n", 16, "h", "w"])
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in places.items())
    assert hazard(proto)
    assert hazard(graph(node("MaxPool", "x", domain="", **window), x=["n", 16, "h", "w"]))
    kept = [node("Clip", "a", "b", ""), node("Concat", "b a", "c", "", axis=1), pool]
    assert not hazard(graph(convolution, *kept, constants=constants, x=["n", 16, "h", "w"]))


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("bij,bjk->bik", False),
        ("bi,ij->bj", False),
        ("bi,bi->b", False),
        ("ij->ji", False),
        ("bth,bsh->bts", True),
        ("nqhd,nkhd->nhqk", True),
        ("ijb,jkb->ikb", True),
        ("...ij,...jk->...ik", True),
    ],
)
def test_an_einsum_is_one_where_it_transposes_what_may_be_empty(equation, expected) -> None:
    terms = equation.split("->")[0].split(",")
    product = node("Einsum", " ".join("ab"[: len(terms)]), domain="", equation=equation)
    free = {name: [*term.replace("...", "z")] for name, term in zip("ab", terms, strict=False)}
    assert bool(hazard(graph(product, **free))) is expected
    assert not hazard(graph(product, **{name: [3] * len(shape) for name, shape in free.items()}))


def test_regions_are_one_of_a_picture_that_may_be_empty_and_say_which_input_that_is() -> None:
    region = node("RoiAlign", "c r i", domain="", sampling_ratio=2)
    for steps, free in (
        ([node("Identity", "x", "c", "")], {("x", axis) for axis in range(4)}),
        ([node("Conv", "x w", "a", ""), node("Relu", "a", "c", "")], set()),
    ):
        proto = graph(*steps, region, constants={"w": (16, 16, 3, 3)}, x=["n", 16, "h", "w"], r=["k", 4])
        proto.graph.input.append(tensor("i", TensorProto.INT64, ["k"]))
        assert never_empty(describe(proto)) == free
        assert ("reads beyond" in hazard(proto)) is bool(free)
    fixed = graph(region, c=["n", 16, 5, 5], r=["k", 4])
    fixed.graph.input.append(tensor("i", TensorProto.INT64, ["k"]))
    assert not hazard(fixed)
    assert never_empty(describe(fixed)) == set()


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ([node("MatMul", "a b", domain="")], set()),
        ([node("Transpose", "x", "c", "", perm=[0, 2, 1]), node("MatMul", "c b", domain="")], set()),
        ([node("FusedMatMul", "b b", transB=1)], set()),
        ([node("FusedMatMul", "x b", transA=1)], {"x1", "b1"}),
        ([node("FusedMatMul", "x w", transA=1)], set()),
        *(
            ([node("DequantizeLinear", "a half", "c", ""), between, product], {"x1", "b1"})
            for between in (
                node("Relu", "c", "d", ""),
                node("Identity", "c", "d", ""),
                node("Cast", "c", "d", "", to=FLOAT),
                node("Mul", "c half", "d", ""),
            )
            for product in (node("MatMul", "d b", domain=""), node("Gemm", "d b", domain=""))
        ),
        ([node("Relu", "a", "d", ""), node("Gemm", "d b", domain="")], set()),
        (
            [
                node("Reshape", "x shape", "r", ""),
                node("Reshape", "b shape", "s", ""),
                node("FusedMatMul", "r s", transA=1),
            ],
            {"x0", "x1", "b0", "b1"},
        ),
    ],
    ids=[
        *("plain", "turned", "over what is fixed", "fused", "with weights"),
        *(f"quantised {product}, {between}" for between in ("", "dropped", "cast", "scaled") for product in "MG"),
        *("plain Gemm", "unknown"),
    ],
)
def test_a_product_over_a_free_dimension_says_where_that_is(made, expected) -> None:
    """If the dimension is not known, it may be any of its factors' dimensions that does not remain in the product."""
    constants = {"w": (3, 8), "half": (1,), "shape": (3,)}
    proto = graph(*made, constants=constants, a=["n", 8, "t"], x=["n", "t", 4], b=["n", "t", 8])
    shape = next(tensor for tensor in proto.graph.initializer if tensor.name == "shape")
    shape.CopyFrom(numpy_helper.from_array(np.array([2, -1, 8]), "shape"))
    assert {f"{name}{axis}" for name, axis in never_empty(describe(proto))} - {"a2"} == expected


@pytest.mark.parametrize(("axis", "expected"), [(1, {("x", 0)}), (0, {("x", 1)})])
def test_what_is_put_beside_a_constant_is_not_empty_but_along_the_axis(axis, expected) -> None:
    beside = [node("Relu", "x", "r", ""), node("Concat", "c r", domain="", axis=axis)]
    assert never_empty(describe(graph(*beside, constants={"c": (1, 1, 8)}, x=["n", "t", 8]))) == expected


def test_a_quantised_pool_is_one_along_the_axes_that_it_has() -> None:
    pool = node("QLinearAveragePool", "x s z s z", kernel_shape=[2, 2], channels_last=1)
    constants = {"s": (), "z": ()}
    assert hazard(graph(pool, constants=constants, element=UINT8, x=["n", "h", "w", 16]))
    assert not hazard(graph(pool, constants=constants, element=UINT8, x=["n", 4, 4, 16]))


ATTENTION = {"num_heads": 2}


@pytest.mark.parametrize(
    ("made", "free", "fixed"),
    [
        (node("MultiHeadAttention", "x x x", **ATTENTION), ["n", "t", "h"], ["n", "t", 8]),
        (node("DecoderMaskedMultiHeadAttention", "x x x", **ATTENTION), ["n", 1, "h"], ["n", 1, 8]),
        (node("RotaryEmbedding", "x places c c"), ["n", "t", "h"], ["n", "t", 8]),
        (node("LinearAttention", "x x x", q_num_heads=2, kv_num_heads=2), ["n", "t", "h"], ["n", "t", 8]),
        (node("MoE", "x r c c c c", k=1), ["n", "h"], ["n", 8]),
        (node("QMoE", "x r c c c c c", k=1), ["n", "h"], ["n", 8]),
        (node("QAttention", "x w b s s", **ATTENTION), ["n", "t", 8], [2, 4, 8]),
        (node("GroupQueryAttention", "x x x _ _ l l", **ATTENTION, kv_num_heads=2), ["n", "t", 8], [2, 4, 8]),
        (node("Inverse", "x"), ["n", 3, "m"], ["n", 3, 3]),
        (node("SkipLayerNormalization", "x r c"), ["n", "t", 8], [2, 4, 8]),
        (node("SkipSimplifiedLayerNormalization", "r x c"), ["n", "t", 8], [2, 4, 8]),
        (node("FeatureVectorizer", "x x", domain="ai.onnx.ml", inputdimensions=[2, 2]), ["n", 2], [5, 2]),
        (node("QuantizeLinear", "c x", domain="", axis=1, block_size=4), ["n", "b"], None),
    ],
    ids=lambda made: getattr(made, "op_type", None),
)
def test_an_operator_that_divides_by_a_size_is_one_where_that_is_free(made, free, fixed) -> None:
    if made.op_type == "SkipSimplifiedLayerNormalization":
        assert "only one of the tensors that it adds" in hazard(
            graph(made, constants={"c": (8,)}, r=["m", "t", 8], x=free)
        )
        assert not hazard(graph(made, constants={"c": (8,)}, r=["m", "t", 8], x=fixed))
        return
    inputs = {"r": ["m", "t", 8]} if "r" in made.input else {}
    constants = {name: (8, 8) for name in ("c", "w", "b", "s", "l", "places") if name in made.input}
    if made.op_type == "SkipLayerNormalization":
        inputs = {"r": [2, "t", 8]}
    assert "ends the process" in hazard(graph(made, constants=constants, x=free, **inputs))
    if made.op_type == "SkipLayerNormalization":
        inputs = {"r": [2, 4, 8]}
    if fixed is not None:
        assert not hazard(graph(made, constants=constants, x=fixed, **inputs))


def test_an_operator_of_onnx_runtime_that_nobody_tried_is_one() -> None:
    assert "is not known" in hazard(graph(node("SparseAttention", "x"), x=["n", 4]))
    assert not hazard(graph(node("BiasGelu", "x b"), constants={"b": (8,)}, x=["n", 8]))


def test_what_an_optimised_transformer_is_made_of_is_none() -> None:
    """As onnxruntime.transformers writes BERT: no shape of what its operators make is inferred by anybody."""
    constants = {"table": (9, 8), "g": (8,), "w": (8, 8), "wide": (8, 32), "narrow": (32, 8), "b8": (8,), "b32": (32,)}
    nodes = [
        node("EmbedLayerNormalization", "ids _ table table _ g g", "e m"),
        *(node("MatMul", "e w", f"{name}0", "") for name in "qkv"),
        *(node("Add", f"{name}0 b8", name, "") for name in "qkv"),
        node("MultiHeadAttention", "q k v", "a", **ATTENTION),
        node("MatMul", "a w", "a2", ""),
        node("SkipLayerNormalization", "a2 e g g b8", "s"),
        node("MatMul", "s wide", "f", ""),
        node("BiasGelu", "f b32", "f2"),
        node("MatMul", "f2 narrow", "f3", ""),
        node("SkipLayerNormalization", "f3 s g g b8", "y"),
    ]
    proto = graph(*nodes, constants=constants, element=TensorProto.INT32, ids=["n", "t"])
    assert not hazard(proto)
    proto.graph.input.append(tensor("other", FLOAT, ["m", "t", 8]))
    proto.graph.node[-1].input[1] = "other"
    assert "only one of the tensors that it adds" in hazard(proto)


@pytest.mark.parametrize(("going", "expected"), [("flags", True), ("flag", False), ("one", False)])
def test_a_counted_loop_is_one_where_what_it_goes_on_by_may_be_empty(going, expected) -> None:
    proto = onnx_models.slow()
    (loop,) = [made for made in proto.graph.node if made.op_type == "Loop"]
    proto.graph.initializer.append(numpy_helper.from_array(np.int64(7), "seven"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([True]), "one"))
    proto.graph.input.extend([tensor("flags", TensorProto.BOOL, ["f"]), tensor("flag", TensorProto.BOOL, [1])])
    loop.input[0] = "seven"
    (body,) = [attribute.g for attribute in loop.attribute]
    body.node[-1].CopyFrom(helper.make_node("Not", [going], ["go_on"]))
    assert ("goes on by is empty" in hazard(proto)) is expected


POSITIONS = {
    "SequenceAt": [node("SequenceAt", "s p", "y", "")],
    "SequenceErase": [node("SequenceErase", "s p", "t", ""), node("SequenceAt", "t zero", "y", "")],
    "SequenceInsert": [node("SequenceInsert", "s x p", "t", ""), node("SequenceAt", "t zero", "y", "")],
}


@pytest.mark.parametrize(("axes", "expected"), [("none", True), ("first", False)])
@pytest.mark.parametrize("op_type", POSITIONS)
def test_an_operator_on_sequences_is_one_where_its_position_may_be_empty(op_type, axes, expected) -> None:
    """Such as the places where an input is not 0, of which there may be none."""
    steps = [
        node("NonZero", "x", "i", ""),
        node("Gather", "i zero" if axes == "none" else "shape zero", "p", "", axis=0),
        node("SequenceConstruct", "x x", "s", ""),
    ]
    proto = graph(*steps, *POSITIONS[op_type], x=["n", 4])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0), "zero"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "shape"))
    assert ("is empty" in hazard(proto)) is expected


def test_a_loop_is_one_where_its_trip_count_may_be_empty() -> None:
    proto = onnx_models.slow()
    (loop,) = [n for n in proto.graph.node if n.op_type == "Loop"]
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0), "first"))
    counted = [helper.make_node("Shape", ["x"], ["sizes"]), helper.make_node("Gather", ["sizes", "first"], ["trips"])]
    places = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Gather", ["i", "first"], ["trips"])]
    loop.input[0] = "trips"
    for steps, expected in ((counted, ""), (places, "trips is empty")):
        moved = ModelProto()
        moved.CopyFrom(proto)
        del moved.graph.node[:]
        moved.graph.node.extend([*steps, *proto.graph.node])
        assert expected in hazard(moved)
        assert bool(hazard(moved)) is bool(expected)
