"""Inlines the local functions of an ONNX model."""

import contextlib
from collections.abc import Iterable, Mapping

from onnx import FunctionProto, ModelProto, NodeProto, defs, inliner

from turnout.registry.onnx.graph import OTHER_VERSION, STANDARD_DOMAIN, STANDARD_SYNONYM
from turnout.registry.onnx.messages import all_nodes, model_nodes

LOCAL_DOMAIN = "local function of "
"""Prefix of the domain of calls to functions that could not be inlined."""

MOST_NODES = 200_000
"""Maximum number of nodes of a model with inlined functions. Functions that call each other twice, thirty levels deep,
would result in a billion."""

_Key = tuple[str, str, str]


def inlined(model: ModelProto) -> ModelProto:
    """Returns `model`, which may be modified, with its functions inlined.

    Functions may be written for other versions of operator sets than the model. Operators that mean the same in both
    become operators of the model; the others get a domain with `OTHER_VERSION`, so that they are not mistaken for them.

    If a function calls itself, or inlining would result in too many nodes, its calls remain, with a domain that begins
    with `LOCAL_DOMAIN`, so that they are never mistaken for standard operators.
    """
    if not model.functions:
        return model
    _agree_on_versions(model)
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


def _agree_on_versions(model: ModelProto) -> None:
    """Gives all functions the operator sets of the model, since the inliner leaves other functions as they are."""
    for node in model_nodes(model):
        node.domain = _plain(node.domain)
    for entry in model.opset_import:
        entry.domain = _plain(entry.domain)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    functions = {(_plain(f.domain), f.name, f.overload) for f in model.functions}
    for function in model.functions:
        function.domain = _plain(function.domain)
        for entry in function.opset_import:
            entry.domain = _plain(entry.domain)
            version = versions.setdefault(entry.domain, entry.version)
            if entry.version == version:
                continue
            for node in all_nodes(function.node):
                if node.domain != entry.domain or _called(node) in functions:
                    continue
                if _definition(node, entry.version) != _definition(node, version):
                    node.domain = f"{node.domain or STANDARD_SYNONYM}{OTHER_VERSION}{entry.version}"
            entry.version = version
    del model.opset_import[:]
    for domain, version in versions.items():
        model.opset_import.add(domain=domain, version=version)


def _plain(domain: str) -> str:
    return STANDARD_DOMAIN if domain == STANDARD_SYNONYM else domain


def _definition(node: NodeProto, version: int) -> int:
    """Returns the version of the operator set that introduced the definition in force in `version`."""
    try:
        return defs.get_schema(node.op_type, version, node.domain).since_version
    except defs.SchemaError:  # ONNX does not know it
        return version


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
