"""Finds the inputs that may not be empty, since an operator reads what lies beside an empty picture in memory. Pure.

`RoiAlign` takes the nearest row of a picture for one that is beyond it. Of a picture without rows that is memory which
belongs to something else: other requests, for instance.
"""

from turnout.registry.onnx.graph import STANDARD_DOMAIN, ModelGraph
from turnout.serving.isolation.origins import Scope, positive


def never_empty(model: ModelGraph) -> frozenset[str]:
    """Returns the names of the inputs out of which a picture is made that a `RoiAlign` is given.

    A convolution in between fails on an empty picture, so that what is made of its output is none of these.
    """
    graph, scope = model.graph, Scope(model.graph, overridable=False)
    made_of = {name: frozenset([name]) for name in graph.inputs if name not in graph.initializers}
    found: frozenset[str] = frozenset()
    for node in graph.nodes:
        sources = frozenset[str]().union(*(made_of.get(name, frozenset()) for name in node.inputs))
        if (node.domain, node.op_type) == (STANDARD_DOMAIN, "RoiAlign"):
            picture = node.inputs[0]
            shape = scope.type_of(picture).shape
            if not scope.is_picture(picture) and not (shape and all(map(positive, shape[2:]))):
                found |= made_of.get(picture, frozenset())
        made_of.update(dict.fromkeys(node.outputs, sources))
        scope.follow_sizes(node)
    return found
