"""Inlines the local functions of an ONNX model."""

import contextlib
from collections.abc import Iterable

from onnx import ModelProto, NodeProto, inliner

from turnout.registry.onnx.messages import all_nodes

LOCAL_DOMAIN = "local function of "
"""Prefix of the domain of calls to functions that could not be inlined."""

MOST_NODES = 200_000
"""Maximum number of nodes of a model with inlined functions. Functions that call each other twice, thirty levels deep,
would result in a billion."""

_MOST_DEPTH = 64
"""Maximum number of functions of which each calls the next."""

_Key = tuple[str, str, str]


def inlined(model: ModelProto) -> ModelProto:
    """Returns `model`, which may be modified, with its functions inlined.

    If a function cannot be inlined, its calls remain, with a domain that begins with `LOCAL_DOMAIN`, so that they are
    never mistaken for standard operators. This happens if a function calls itself, if inlining would result in too many
    nodes, or if the function was written for another version of an operator set.
    """
    if not model.functions:
        return model
    size = _size_inlined(model)
    if size is not None and size <= MOST_NODES:
        # The inliner raises RuntimeError and its own errors. Functions that it could not inline remain calls.
        with contextlib.suppress(Exception):
            model = inliner.inline_local_functions(model)
    left = {(f.domain, f.name, f.overload) for f in model.functions}
    for node in all_nodes(model.graph.node):
        if _called(node) in left:
            node.domain = f"{LOCAL_DOMAIN}{node.domain}"
    del model.functions[:]
    return model


def _size_inlined(model: ModelProto) -> int | None:
    """Returns the number of nodes after inlining; None if a function calls itself, directly or indirectly."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    sizes: dict[_Key, int] = {}

    def size(nodes: Iterable[NodeProto], open_calls: frozenset[_Key]) -> int:
        total = 0
        for node in all_nodes(nodes):
            key = _called(node)
            if key in functions and key not in sizes:
                if key in open_calls or len(open_calls) > _MOST_DEPTH:
                    raise RecursionError
                sizes[key] = size(functions[key].node, open_calls | {key})
            total += sizes.get(key, 1)
        return total

    try:
        return size(model.graph.node, frozenset())
    except RecursionError:
        return None


def _called(node: NodeProto) -> _Key:
    return (node.domain, node.op_type, node.overload)
