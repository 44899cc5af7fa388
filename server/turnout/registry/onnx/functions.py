"""Inlines the local functions of an ONNX model."""

import contextlib
from collections.abc import Iterable, Mapping

from onnx import FunctionProto, ModelProto, NodeProto, inliner

from turnout.registry.onnx.messages import all_nodes

LOCAL_DOMAIN = "local function of "
"""Prefix of the domain of calls to functions that could not be inlined."""

MOST_NODES = 200_000
"""Maximum number of nodes of a model with inlined functions. Functions that call each other twice, thirty levels deep,
would result in a billion."""

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
    sizes: dict[_Key, int | None] = {}
    for key in functions:
        _size_of(key, functions, sizes, set())
    return _sum(model.graph.node, functions, sizes)


def _size_of(
    key: _Key, functions: Mapping[_Key, FunctionProto], sizes: dict[_Key, int | None], open_calls: set[_Key]
) -> int | None:
    if key in open_calls or len(open_calls) > 64:
        return None
    if key not in sizes:
        open_calls.add(key)
        for called in {_called(node) for node in all_nodes(functions[key].node)} & functions.keys():
            _size_of(called, functions, sizes, open_calls)
        open_calls.discard(key)
        calls_itself = any(
            (called := _called(node)) in functions and sizes.get(called) is None
            for node in all_nodes(functions[key].node)
        )
        sizes[key] = None if calls_itself else _sum(functions[key].node, functions, sizes)
    return sizes[key]


def _sum(
    nodes: Iterable[NodeProto], functions: Mapping[_Key, FunctionProto], sizes: Mapping[_Key, int | None]
) -> int | None:
    total = 0
    for node in all_nodes(nodes):
        size = sizes.get(_called(node), 1) if _called(node) in functions else 1
        if size is None:
            return None
        total += size
    return total


def _called(node: NodeProto) -> _Key:
    return (node.domain, node.op_type, node.overload)
