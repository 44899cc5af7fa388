"""Finds which weights of two versions differ, and by how much. Tensors are paired by name.

The size of a change is the largest difference relative to the largest value, max|new - old| / max|old|. A relative
change per element would be dominated by the elements that matter least: those near zero.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from turnout.registry.manifest.manifest import MODEL_FILE
from turnout.registry.onnx.messages import model_tensors
from turnout.registry.onnx.weights import Weight, read_weights


@dataclass(frozen=True, slots=True)
class WeightChange:
    """A tensor that both versions have and whose content differs.

    Attributes:
        shape: Shape in the newer version.
        size: Size in bytes in the newer version.
        relative: Largest difference relative to the older tensor's largest value; None if shape or type differ.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    relative: float | None


@dataclass(frozen=True, slots=True)
class WeightsDiff:
    """The differences between the weights of two versions.

    Attributes:
        tensors: Number of tensors of the newer version.
        size: Total size of these tensors in bytes.
        changed: Tensors with the same name and different content, the most changed first.
        new: Names of tensors whose name and content the older version does not have.
        gone: Names of tensors whose name and content the newer version does not have.
        renamed: Number of tensors that have the same content under another name.
    """

    tensors: int
    size: int
    changed: tuple[WeightChange, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]
    renamed: int = 0

    @property
    def changed_size(self) -> int:
        """Total size of the changed tensors in bytes."""
        return sum(change.size for change in self.changed)


def compare_weights(old: Path, new: Path) -> WeightsDiff:
    """Compares the weights of the versions in two directories. At most one tensor of each is in memory at a time.

    Raises:
        OSError, ValueError: A tensor cannot be read.
    """
    before, after = _by_name(read_weights(old).tensors), _by_name(read_weights(new).tensors)
    differing = [name for name in after if name in before and before[name].content != after[name].content]
    older, newer = _tensors(old, differing), _tensors(new, differing)
    changes = []
    for name in differing:
        weight = after[name]
        relative = _relative(older[name], old, newer[name], new)
        changes.append(WeightChange(name, weight.shape, weight.size, relative))
    changes.sort(key=lambda change: -(np.inf if change.relative is None else change.relative))
    came = [name for name in after if name not in before]
    went = [name for name in before if name not in after]
    kept = Counter(after[name].content for name in came) & Counter(before[name].content for name in went)
    return WeightsDiff(
        tensors=len(after),
        size=sum(weight.size for weight in after.values()),
        changed=tuple(changes),
        new=_less(came, after, kept),
        gone=_less(went, before, kept),
        renamed=kept.total(),
    )


def _less(names: list[str], weights: Mapping[str, Weight], kept: Counter[str]) -> tuple[str, ...]:
    """Returns `names` without those whose contents are in `kept`, each as often as `kept` counts it."""
    left, names_left = kept.copy(), []
    for name in names:
        if left[weights[name].content] > 0:
            left[weights[name].content] -= 1
        else:
            names_left.append(name)
    return tuple(names_left)


def _by_name(weights: tuple[Weight, ...]) -> Mapping[str, Weight]:
    """Returns weights by name. Unnamed ones, such as the values of many Constant nodes, are numbered."""
    named: dict[str, Weight] = {}
    for weight in weights:
        named[_free(weight.name, named)] = weight
    return named


def _tensors(directory: Path, wanted: list[str]) -> Mapping[str, TensorProto]:
    named: dict[str, TensorProto] = {}
    for tensor in model_tensors(onnx.load(directory / MODEL_FILE, load_external_data=False)):
        named[_free(str(tensor.name), named)] = tensor
    return {name: named[name] for name in wanted}


def _free(name: str, taken: Mapping[str, object]) -> str:
    chosen, number = name or "constant", 2
    while chosen in taken:
        chosen, number = f"{name or 'constant'} ({number})", number + 1
    return chosen


def _relative(old: TensorProto, old_home: Path, new: TensorProto, new_home: Path) -> float | None:
    if tuple(old.dims) != tuple(new.dims) or old.data_type != new.data_type or old.data_type == TensorProto.STRING:
        return None
    one = numpy_helper.to_array(old, str(old_home)).astype(np.float64)
    other = numpy_helper.to_array(new, str(new_home)).astype(np.float64)
    scale = float(np.abs(one).max(initial=0.0))
    apart = float(np.abs(other - one).max(initial=0.0))
    return apart / scale if scale else float("inf")
