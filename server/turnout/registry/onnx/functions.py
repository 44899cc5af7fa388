"""Inlines the local functions of an ONNX model."""

import contextlib
from collections.abc import Iterable

from onnx import ModelProto, NodeProto, defs, inliner

from turnout.registry.onnx.graph import OTHER_VERSION, STANDARD_SYNONYM
from turnout.registry.onnx.messages import all_nodes, domain_of, model_nodes

LOCAL_DOMAIN = "local function of "
"""Prefix of the domain of calls to functions that could not be inlined."""

MOST_NODES = 50_000
"""Maximum number of nodes of a model with inlined functions, and of one whose types are inferred: ONNX holds Python's
lock meanwhile, for 1 s for 50,000 nodes. Functions that call each other twice, thirty levels deep, would result in a
billion."""

_MOST_DEPTH = 64
"""Maximum number of functions of which each calls the next."""

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
    return without_functions(model)


def without_functions(model: ModelProto) -> ModelProto:
    """Returns `model`, which is modified, without its functions. Their calls get a domain that begins with
    `LOCAL_DOMAIN`.
    """
    left = {(f.domain, f.name, f.overload) for f in model.functions}
    for node in all_nodes(model.graph.node):
        if _called(node) in left:
            node.domain = f"{LOCAL_DOMAIN}{node.domain}"
    del model.functions[:]
    return model


def _agree_on_versions(model: ModelProto) -> None:
    """Gives all functions the operator sets of the model, since the inliner leaves other functions as they are."""
    for node in model_nodes(model):
        node.domain = domain_of(node.domain)
    for entry in model.opset_import:
        entry.domain = domain_of(entry.domain)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    functions = {(domain_of(f.domain), f.name, f.overload) for f in model.functions}
    for function in model.functions:
        function.domain = domain_of(function.domain)
        for entry in function.opset_import:
            entry.domain = domain_of(entry.domain)
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


def _definition(node: NodeProto, version: int) -> int:
    """Returns the version of the operator set that introduced the definition in force in `version`."""
    try:
        return defs.get_schema(node.op_type, version, node.domain).since_version
    except defs.SchemaError:  # ONNX does not know it
        return version


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
