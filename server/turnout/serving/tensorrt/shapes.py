"""Decides for which shapes TensorRT builds engines of a version: its shape profile. Pure.

Unless ONNX Runtime is told the shapes beforehand, it builds an engine for those of the first run, and builds it again,
within a request, for each run outside the shapes so far. With a profile it builds engines when it creates the session.
Later it builds none, and fails to run on other shapes; it also does not create a session if the profile lacks a free
dimension that TensorRT would see, such as one that a value of a request determines.

The options are documented in "Explicit shape range for dynamic shape input" on
onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html. This has not been tested on a GPU yet.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from turnout.config import DimensionSizes
from turnout.errors import ModelFailure
from turnout.registry.manifest.manifest import BatchingDeclaration, Manifest
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.registry.onnx.graph import Graph, ModelGraph
from turnout.serving.batching.batchability import likely_axes, sample_axes
from turnout.serving.inputs.dimensions import InputDimension, SizeRange, free_dimensions
from turnout.serving.rowwise.proof import prove_rows

_SEPARATORS = frozenset(":,")
"""Characters that ONNX Runtime takes for the end of an input's name in an option."""


@dataclass(frozen=True, slots=True)
class ShapeProfile:
    """The shapes for which engines of a version are built.

    Attributes:
        sizes: Sizes of each free dimension.
        options: Options of ONNX Runtime's TensorRT provider; empty if all shapes in the graph are fixed.
    """

    sizes: Mapping[InputDimension, SizeRange] = field(default_factory=dict)
    names: Mapping[InputDimension, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name of a folder for engines of these shapes."""
        if not self.options:
            return "fixed"
        return hashlib.sha256("\n".join(sorted(self.options.values())).encode()).hexdigest()[:16]

    @property
    def usual(self) -> Mapping[str, int]:
        """Usual size of each free dimension, by name."""
        return {self.names[place]: sizes.opt for place, sizes in self.sizes.items()}

    def most_rows(self, axes: Mapping[str, int], rows: int) -> int:
        """Returns how many of `rows` rows along `axes`, by input, fit into the engines."""
        return min([rows, *(sizes.max for (name, axis), sizes in self.sizes.items() if axes.get(name) == axis)])

    def batchable(self, manifest: Manifest) -> Manifest:
        """Returns the manifest of a version, without batch axes if the engines do not take a single row along them."""
        axes = sample_axes(manifest)
        if all(sizes.min <= 1 for (name, axis), sizes in self.sizes.items() if axes.get(name) == axis):
            return manifest
        return replace(manifest, batching=BatchingDeclaration(enabled=False, axes={}))


NO_PROFILE = ShapeProfile()
"""The profile of a version that does not run on TensorRT."""


def shape_profile(
    manifest: Manifest, graph: ModelGraph, rows: int, given: Mapping[str, DimensionSizes]
) -> ShapeProfile:
    """Returns the shapes for which engines of a version are built, in batches of up to `rows` rows; 0 for no batches.

    `given` is the setting `runtime.tensorrt_sizes`.

    Raises:
        ModelFailure: The sizes of a free dimension are not known, or ONNX Runtime cannot be told them.
    """
    signature, used = manifest.signature, {name for node in graph.graph.all_nodes() for name in node.inputs}
    seen = [spec for spec in signature.inputs if spec.name in used and spec.dtype is not DataType.STRING]
    stated = {name: SizeRange(sizes.min, sizes.opt or sizes.max, sizes.max) for name, sizes in given.items()}
    known = {**_of_batches(manifest, graph, rows, stated), **stated}
    names = {(spec.name, axis): name for spec in seen for axis, name in free_dimensions(spec)}
    if unknown := sorted({name for name in names.values() if name not in known}):
        raise ModelFailure(
            f"the sizes of {', '.join(unknown)} are not known, and an engine for one size would be built anew for the"
            f" next, within a request; set [model.{manifest.model}.runtime.tensorrt_sizes]"
        )
    sizes = {place: known[name] for place, name in names.items()}
    free = [spec for spec in seen if any(not isinstance(size, int) for size in spec.shape)]
    if not free and not _is_fixed(graph.graph):
        # TensorRT may get tensors whose sizes values determine. With a profile of any other input, ONNX Runtime refuses
        # to create such a session; without one, it would build engines during requests.
        free = sorted(seen, key=lambda spec: len(spec.shape))[-1:]
    if wrong := next((spec.name for spec in free if _SEPARATORS & set(spec.name)), None):
        raise ModelFailure(f"ONNX Runtime cannot be told the sizes of an input that is named {wrong!r}")
    return ShapeProfile(sizes, names, dict(_options(free, sizes)))


def _options(inputs: Sequence[TensorSpec], sizes: Mapping[InputDimension, SizeRange]) -> Iterator[tuple[str, str]]:
    for which in ("min", "opt", "max") if inputs else ():
        shapes = [
            "x".join(
                str(size if isinstance(size, int) else getattr(sizes[spec.name, axis], which))
                for axis, size in enumerate(spec.shape)
            )
            for spec in inputs
        ]
        pairs = (f"{spec.name}:{shape}" for spec, shape in zip(inputs, shapes, strict=True))
        yield f"trt_profile_{which}_shapes", ",".join(pairs)


def _of_batches(
    manifest: Manifest, graph: ModelGraph, rows: int, given: Mapping[str, SizeRange]
) -> Mapping[str, SizeRange]:
    """Returns the sizes of batch dimensions by name, from the batches that may be formed along them."""
    declared = manifest.batching or BatchingDeclaration()
    most = min(rows, declared.max_rows or rows)
    if most < 2 or not declared.enabled:
        return {}
    axes = sample_axes(manifest) if declared.axes is not None else _proved_axes(manifest.signature, graph, given)
    return {
        name: SizeRange(1, most, most)
        for spec in manifest.signature.inputs
        for axis, name in free_dimensions(spec)
        if axes.get(spec.name) == axis
    }


def _proved_axes(signature: Signature, graph: ModelGraph, given: Mapping[str, SizeRange]) -> Mapping[str, int]:
    """Returns the axis of each input along which the graph proves that rows are independent; empty if there is none."""
    for axes in likely_axes(signature):
        for tried in (signature, _at_usual_sizes(signature, given, axes)):
            if not prove_rows(graph, tried, axes).obstacle:
                return axes
    return {}


def _at_usual_sizes(signature: Signature, given: Mapping[str, SizeRange], axes: Mapping[str, int]) -> Signature:
    """Returns a signature with the given sizes in place of free dimensions, except along `axes`."""
    inputs = []
    for spec in signature.inputs:
        shape = list(spec.shape)
        for axis, name in free_dimensions(spec):
            if name in given and axes.get(spec.name) != axis:
                shape[axis] = given[name].opt
        inputs.append(replace(spec, shape=tuple(shape)))
    return Signature(tuple(inputs), signature.outputs)


def _is_fixed(graph: Graph) -> bool:
    for node in graph.nodes:
        if not all(_is_fixed(inner) for graphs in node.subgraphs.values() for inner in graphs):
            return False
        for name in filter(None, node.outputs):
            kind = graph.types.get(name)
            if kind is None or kind.shape is None or not all(isinstance(size, int) for size in kind.shape):
                return False
    return True
