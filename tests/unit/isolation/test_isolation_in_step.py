"""Which inputs have to have rows where others have."""

import pytest
from onnx import ModelProto, TensorProto, helper

import onnx_models
from onnx_models import model, tensor
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.registry.onnx.graph_reader import describe
from turnout.serving.isolation.empty_inputs import in_step as groups_of

FLOAT = TensorProto.FLOAT


def in_step(proto: ModelProto) -> list[dict[str, int]]:
    inputs = [
        TensorSpec(
            value.name,
            DataType.FLOAT32,
            tuple(size.dim_param or size.dim_value or None for size in value.type.tensor_type.shape.dim),
        )
        for value in proto.graph.input
    ]
    return [dict(group) for group in groups_of(describe(proto), Signature(tuple(inputs), ()))]


def of(*nodes, **inputs) -> ModelProto:
    given = [tensor(name, FLOAT, shape) for name, shape in inputs.items()]
    return model([helper.make_node(*made, **more) for *made, more in nodes], given, [tensor("y", FLOAT, None)])


@pytest.mark.parametrize("mixes", [False, True])
def test_those_are_whose_rows_are_put_beside_each_other_whatever_comes_after(mixes) -> None:
    assert in_step(onnx_models.side_by_side(mixes=mixes)) == [{"a": 0, "b": 0}]


def test_whatever_was_made_of_them_counts() -> None:
    steps = [("Relu", ["a"], ["r"], {}), ("Transpose", ["b"], ["t"], {"perm": [1, 0]})]
    joined = ("Concat", ["r", "t"], ["y"], {"axis": 1})
    assert in_step(of(*steps, joined, a=["n", 3], b=[4, "m"])) == [{"a": 0, "b": 1}]


def test_a_cache_may_be_empty_along_the_axis_that_it_is_added_to_along() -> None:
    cache = ("Concat", ["past", "new"], ["y"], {"axis": 2})
    assert in_step(of(cache, past=["b", 2, "p", 4], new=["c", 2, "s", 4])) == [{"past": 0, "new": 0}]


@pytest.mark.parametrize("names", ["kj", (None, None), ("k", None)])
def test_other_dimensions_are_too_whatever_they_are_called(names) -> None:
    below = [("Relu", ["a"], ["r"], {}), ("Concat", ["r", "b"], ["y"], {"axis": -2})]
    assert in_step(of(*below, a=["n", names[0]], b=["m", names[1]])) == [{"a": 1, "b": 1}]


def test_two_dimensions_of_one_input_are_where_it_is_joined_with_what_was_made_of_it() -> None:
    turned = [("Transpose", ["a"], ["t"], {}), ("MatMul", ["a", "t"], ["m"], {})]
    joined = ("Concat", ["m", "a"], ["y"], {"axis": 0})
    described = describe(of(*turned, joined, a=["n", "t"]))
    assert groups_of(described, Signature((), ())) == [[("a", 0), ("a", 1)]]


def test_addends_of_one_name_are() -> None:
    """ONNX Runtime makes a `SkipLayerNormalization` of that and a `LayerNormalization`, of whatever it is made of."""
    assert in_step(of(("Add", ["a", "b"], ["y"], {}), a=["n", 3, 4], b=["n", 3, 4])) == [{"a": 0, "b": 0}]
    steps = [("Relu", ["a"], ["r"], {}), ("Add", ["r", "b"], ["s"], {}), ("LayerNormalization", ["s", "c"], ["y"], {})]
    assert in_step(of(*steps, a=["n", "t", 4], b=["n", "t", 4], c=[4])) == [{"a": 0, "b": 0}, {"a": 1, "b": 1}]


SEQUENCE = ("SequenceConstruct", ["a", "b"], ["s"], {})


@pytest.mark.parametrize(
    "steps",
    [
        [SEQUENCE, ("ConcatFromSequence", ["s"], ["y"], {"axis": 1})],
        [SEQUENCE, ("ConcatFromSequence", ["s"], ["y"], {"axis": 0, "new_axis": 1})],
        [
            ("SequenceConstruct", ["a"], ["r"], {}),
            ("SequenceInsert", ["r", "b"], ["t"], {}),
            ("Identity", ["t"], ["s"], {}),
            ("ConcatFromSequence", ["s"], ["y"], {"axis": -1}),
        ],
        [("QLinearConcat", ["c", "d", "a", "c", "d", "b", "c", "d"], ["y"], {"axis": 1, "domain": "com.microsoft"})],
    ],
    ids=["of a sequence", "stacked", "one after another", "quantised"],
)
def test_whatever_joins_them_counts(steps) -> None:
    assert in_step(of(*steps, a=["n", 3], b=["m", 3])) == [{"a": 0, "b": 0}]


@pytest.mark.parametrize(
    "proto",
    [
        of(("Concat", ["a", "b"], ["y"], {"axis": 0}), a=["n", 3], b=["m", 3]),
        of(("Concat", ["a", "b"], ["y"], {"axis": 0}), a=["n", "k"], b=["m", "k"]),
        of(("Mul", ["a", "b"], ["y"], {}), a=["n", 3], b=["m", 3]),
        of(("Concat", ["a", "a"], ["y"], {"axis": 1}), a=["n", 3], b=["m", 3]),
        of(("Concat", ["a", "a"], ["c"], {"axis": 1}), ("MatMul", ["b", "c"], ["y"], {}), a=[3, "n"], b=["m", 6]),
    ],
    ids=["one after another", "of one name", "elementwise", "of one input", "only what comes after"],
)
def test_others_are_not(proto) -> None:
    assert in_step(proto) == []
