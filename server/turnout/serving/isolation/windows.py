"""Finds pooling windows that may be larger than the image that they slide over, of which nothing is left then. Pure."""

from turnout.registry.onnx.graph import Node
from turnout.serving.isolation.origins import Scope, input_of


def may_exceed_image(node: Node, scope: Scope, *, least: int = 0) -> bool:
    """Returns whether the window of a pooling operator, with its stride, may exceed the image and its padding.

    ONNX Runtime then returns an image of size 0 along that axis. An image without height passes only if there are no
    rows either; otherwise it is refused. `least` is the smallest size of an image of which nothing is known.
    """
    kernel = numbers(node, "kernel_shape", 1, 0)
    axes = len(kernel)
    strides, dilations = (numbers(node, name, 1, axes) for name in ("strides", "dilations"))
    how = str(node.attributes.get("auto_pad", "NOTSET"))
    pads = numbers(node, "pads", 0, 2 * axes) if how == "NOTSET" else (0,) * 2 * axes
    first = 1 if node.attributes.get("channels_last") else 2
    shape = scope.shape(node, 0)
    for axis, window in enumerate(kernel):
        size = shape[first + axis] if shape is not None and len(shape) == 2 + axes else None
        known = size if isinstance(size, int) and size > 0 else max(least, scope.is_picture(input_of(node, 0)))
        room = known + pads[axis] + pads[axis + axes] - dilations[axis] * (window - 1) - 1
        if not known if how.startswith("SAME") else room <= -strides[axis]:
            return True
    return False


def numbers(node: Node, name: str, default: int, count: int) -> tuple[int, ...]:
    """Returns an attribute that is a list of numbers, or `count` defaults if it is missing or of another kind."""
    value = node.attributes.get(name)
    if isinstance(value, tuple) and (not count or len(value) == count):
        return tuple(number for number in value if isinstance(number, int))
    return (default,) * count
