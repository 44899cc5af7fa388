"""Removes the ZipMap at the end of scikit-learn classifiers (skl2onnx's default).

ZipMap converts each row of scores to a map from class to score, which is not a tensor: no server protocol supports it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from turnout.errors import InvalidModel
from turnout.registry.onnx.external_data import external_files
from turnout.registry.onnx.graph import CLASSICAL_DOMAIN
from turnout.registry.onnx.messages import inner_graphs, text_of

_LABELS = ("classlabels_strings", "classlabels_int64s")

WITHOUT = "options={'zipmap': False} of skl2onnx.to_onnx"


@dataclass(frozen=True, slots=True)
class Unzipped:
    """An output that was a map and is now a tensor.

    Attributes:
        output: Name of the output, which is unchanged.
        keys: The classes along its last axis as keys of the former map, in order: text or integers.
    """

    output: str
    keys: tuple[str | int, ...]


def map_outputs(model: ModelProto) -> frozenset[str]:
    """Returns the names of the outputs that are produced by a ZipMap."""
    made = {name for node in _zipmaps(model.graph) for name in node.output}
    return frozenset(value.name for value in model.graph.output if value.name in made)


def drop_zipmap(model: ModelProto) -> tuple[Unzipped, ...]:
    """Removes each ZipMap that produces an output from `model` itself, and outputs its scores instead.

    Returns:
        The converted outputs. The names of all outputs are unchanged.

    Raises:
        InvalidModel: There is no ZipMap, or the model differs from what skl2onnx writes; the message says how.
    """
    graph = model.graph
    if external_files(model):
        raise InvalidModel(f"ZipMap cannot be removed from a model with external data; export it with {WITHOUT}")
    outputs = {value.name: value for value in graph.output}
    found = [node for node in _zipmaps(graph) if node.output and node.output[0] in outputs]
    if not found:
        raise InvalidModel("no output of the model is made by ZipMap: publish it without --drop-zipmap")
    unzipped: list[Unzipped] = []
    for node in found:
        if len(node.input) != 1 or len(node.output) != 1:
            raise InvalidModel(
                f"expected a ZipMap with one input and one output, got {len(node.input)} and {len(node.output)}"
            )
        (scores,), (output,) = node.input, node.output
        if output in set(_read(graph, node)):
            raise InvalidModel(f"output {output!r} is made by ZipMap, and other nodes read it; export with {WITHOUT}")
        keys = _classes(node, output)
        graph.node.remove(node)
        _give_out(graph, scores, output)
        outputs[output].CopyFrom(_described(graph, output, len(keys)))
        unzipped.append(Unzipped(output, keys))
    return tuple(unzipped)


def _zipmaps(graph: GraphProto) -> list[NodeProto]:
    return [node for node in graph.node if node.op_type == "ZipMap" and node.domain == CLASSICAL_DOMAIN]


def _classes(node: NodeProto, output: str) -> tuple[str | int, ...]:
    entries = {attribute.name: attribute for attribute in node.attribute if attribute.name in _LABELS}
    if len(entries) != 1:
        raise InvalidModel(f"the ZipMap of output {output!r} has no classes, or two lists of them")
    ((name, attribute),) = entries.items()
    keys: tuple[str | int, ...] = tuple(attribute.ints)
    if name == "classlabels_strings":
        try:
            keys = tuple(one.decode() for one in attribute.strings)
        except UnicodeDecodeError as error:
            raise InvalidModel(f"a class of output {output!r} is not UTF-8") from error
    if not keys or len(set(keys)) < len(keys):
        raise InvalidModel(f"the ZipMap of output {output!r} has no classes, or one twice")
    return keys


def _read(graph: GraphProto, but: NodeProto) -> Iterator[str]:
    """Yields every name that a node other than `but` reads, including nodes of subgraphs."""
    for node in graph.node:
        if node is but or (node.op_type == but.op_type and list(node.output) == list(but.output)):
            continue
        yield from node.input
        for attribute in node.attribute:
            for inner in inner_graphs(attribute):
                yield from _read(inner, but)


def _give_out(graph: GraphProto, scores: str, output: str) -> None:
    """Makes the tensor `scores` an output with the name `output`."""
    # A tensor that is also read or output under its own name keeps it, and gets the second name by an Identity node.
    makers = [node for node in graph.node if scores in node.output]
    elsewhere = scores in {value.name for value in graph.output} or scores in set(_read(graph, NodeProto()))
    if len(makers) != 1 or elsewhere:
        graph.node.append(helper.make_node("Identity", [scores], [output], name=f"{output}_without_zipmap"))
        return
    (maker,) = makers
    maker.output[:] = [output if name == scores else name for name in maker.output]


def _described(graph: GraphProto, output: str, classes: int) -> ValueInfoProto:
    """Returns the new type of the output: one float per row and class."""
    first = next((value for value in graph.input if value.type.tensor_type.shape.dim), None)
    rows = first.type.tensor_type.shape.dim[0].dim_param if first is not None else ""
    return helper.make_tensor_value_info(output, TensorProto.FLOAT, [text_of(rows, "a dimension") or None, classes])
