"""Moves the nodes of a model into branches, loops and functions. Its answers stay the same."""

from collections.abc import Callable, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnx_models import recurrent, tensor


def in_a_branch(proto: ModelProto) -> ModelProto:
    """Returns the model inside both branches of an `If`, by an input that is true unless a caller says otherwise."""
    nodes, outputs = _inside(proto)
    branches = {
        f"{name}_branch": helper.make_graph([_copied(node) for node in nodes], name, [], outputs)
        for name in ("then", "else")
    }
    made = _around(proto, [helper.make_node("If", ["go"], [o.name for o in proto.graph.output], **branches)])
    made.graph.input.append(tensor("go", TensorProto.BOOL, []))
    made.graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
    return made


def in_a_loop(proto: ModelProto) -> ModelProto:
    """Returns the model inside the body of a `Loop` of one round, which gets the inputs from round to round."""
    nodes, outputs = _inside(proto)
    carried = {value.name: f"carried {value.name}" for value in proto.graph.input}
    for node in nodes:
        _rename(node, carried)
    kinds = {value.name: value.type.tensor_type.elem_type for value in proto.graph.input}
    body = helper.make_graph(
        [
            *nodes,
            helper.make_node("Identity", ["going"], ["goes on"]),
            *(helper.make_node("Identity", [inner], [f"{inner} on"]) for inner in carried.values()),
        ],
        "body",
        [
            tensor("round", TensorProto.INT64, []),
            tensor("going", TensorProto.BOOL, []),
            *(tensor(inner, kinds[name], None) for name, inner in carried.items()),
        ],
        [
            tensor("goes on", TensorProto.BOOL, []),
            *(tensor(f"{inner} on", kinds[name], None) for name, inner in carried.items()),
            *outputs,
        ],
    )
    rounds = [f"rounds of {value.name}" for value in proto.graph.output]
    left = [f"left of {name}" for name in carried]
    made = _around(
        proto,
        [
            helper.make_node("Loop", ["one round", "", *carried], [*left, *rounds], body=body),
            *(
                helper.make_node("Squeeze", [name, "first axis"], [value.name])
                for name, value in zip(rounds, proto.graph.output, strict=True)
            ),
        ],
    )
    made.graph.initializer.append(numpy_helper.from_array(np.array(1), "one round"))
    made.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first axis"))
    return made


def in_a_function(proto: ModelProto, opset: int | None = None) -> ModelProto:
    """Returns the model as a call of a local function, which is written for another operator set if one is given."""
    given = list(dict.fromkeys(value.name for value in (*proto.graph.input, *proto.graph.initializer)))
    made_by = [value.name for value in proto.graph.output]
    imports = [helper.make_opsetid(e.domain, e.version if e.domain else opset or e.version) for e in proto.opset_import]
    name = f"whole{len(proto.functions)}"
    function = helper.make_function("here", name, given, made_by, list(proto.graph.node), imports)
    made = _around(proto, [helper.make_node(name, given, made_by, domain="here")])
    made.functions.append(function)
    for holder in (made, function):
        if "here" not in {entry.domain for entry in holder.opset_import}:
            holder.opset_import.append(helper.make_opsetid("here", 1))
    return made


def out_of_order(proto: ModelProto) -> ModelProto:
    """Returns the model with its nodes in reverse order, which ONNX does not allow and ONNX Runtime runs."""
    return _around(proto, list(reversed(proto.graph.node)))


def deep(proto: ModelProto) -> ModelProto:
    """Returns the model inside a branch in a loop in a function in a branch."""
    return in_a_branch(in_a_function(in_a_loop(_renamed_condition(in_a_branch(proto)))))


PLACES: Mapping[str, Callable[[ModelProto], ModelProto]] = {
    "in a branch": in_a_branch,
    "in a loop": in_a_loop,
    "in a function": in_a_function,
    "in a function of another operator set": lambda proto: in_a_function(proto, 16),
    "deep": deep,
}
"""Where the nodes of a model may be, by description."""

UNUSUAL: Mapping[str, Callable[[ModelProto], ModelProto]] = {
    "in a function of operators with other definitions": lambda proto: in_a_function(proto, 12),
    "out of order": out_of_order,
}
"""Further places, which ONNX Runtime accepts and the gate `integrity` does not."""


def _inside(proto: ModelProto) -> tuple[list[NodeProto], list[ValueInfoProto]]:
    """Returns copies of the nodes and outputs of a model, with other names for the outputs."""
    names = {value.name: f"{value.name} inside" for value in proto.graph.output}
    nodes = [_copied(node) for node in proto.graph.node]
    for node in nodes:
        _rename(node, names)
    outputs = [tensor(names[v.name], v.type.tensor_type.elem_type, None) for v in proto.graph.output]
    return nodes, outputs


def _copied(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for attribute in node.attribute:
        for inner in attribute.g.node:
            _rename(inner, names)


def _around(proto: ModelProto, nodes: list[NodeProto]) -> ModelProto:
    """Returns a copy of a model with other nodes."""
    made = ModelProto()
    made.CopyFrom(proto)
    made.ir_version = max(made.ir_version, 8)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _renamed_condition(proto: ModelProto) -> ModelProto:
    """Returns a model of `in_a_branch` to which that can be done again."""
    for value in (*proto.graph.input, *proto.graph.initializer):
        value.name = "go inside" if value.name == "go" else value.name
    for node in proto.graph.node:
        _rename(node, {"go": "go inside"})
    return proto


def _with_a_default() -> ModelProto:
    proto = recurrent()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((1, 3, 2), np.float32), "x"))
    return proto


def _with_a_claim_of_a_function() -> ModelProto:
    proto = recurrent()
    proto.graph.node[0].input[0] = "c"
    proto.graph.node.insert(0, helper.make_node("Relu", ["x"], ["c"]))
    proto = in_a_function(proto)
    proto.ir_version = 10
    proto.functions[0].value_info.append(tensor("c", TensorProto.FLOAT, [1, 3, 2]))
    return proto


def _with_a_claim_of_a_sequence() -> ModelProto:
    """Returns a model that takes its input from a sequence that both branches of an `If` describe wrongly.

    It passes through a `Reshape` whose sizes are only known in a run, so that nothing contradicts them.
    """
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("SequenceConstruct", ["shaped"] * count, [name])],
            name,
            [],
            [helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, [1, 3, 2])],
        )
        for count, name in enumerate(("then", "else"), 1)
    }
    proto = recurrent()
    proto.graph.node[0].input[0] = "c"
    steps = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Reshape", ["x", "sizes"], ["shaped"], allowzero=1),
        helper.make_node("If", ["go"], ["sequence"], **branches),
        helper.make_node("SequenceAt", ["sequence", "zero"], ["c"]),
    ]
    made = _around(proto, [*steps, *proto.graph.node])
    made.graph.input.append(tensor("go", TensorProto.BOOL, []))
    made.graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
    made.graph.initializer.append(numpy_helper.from_array(np.array(0), "zero"))
    return made


CLAIMS: Mapping[str, Callable[[], ModelProto]] = {
    "a default": _with_a_default,
    "a claim of a function": _with_a_claim_of_a_function,
    "a claim of a sequence": _with_a_claim_of_a_sequence,
}
"""Models of x, float32 (steps, rows, 2), that no rows end by SIGABRT, and that say elsewhere that they have 3."""
