"""Finds out, by running a version, whether and how its requests may be put together.

Two different single-row requests are run by themselves and then as one batch of two. Only where each row of the batch
answers as it did alone, within tolerance, are requests of different clients ever put into one run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from turnout.errors import TurnoutError
from turnout.registry.agreement import differs, tolerance_of
from turnout.registry.manifest import Batching, Manifest
from turnout.registry.signature import Signature
from turnout.serving.sample import find_sample
from turnout.serving.session import Run
from turnout.serving.synthetic import Recipe, recipes
from turnout.serving.tensor import Array


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How a version's requests are put together.

    Attributes:
        max_rows: Most rows in a batch; 0 where requests run one at a time.
        input_axes: The axis along which each batched input grows; an input not named is the same for a whole batch.
        output_axes: The axis along which each batched output grows; an output not named is given to every request.
        reason: Why it is so, in words.
        sample: Inputs of one row that the model runs on, for warm-up; None where none were found.
        mixes: A batch of two ran, and its rows were answered otherwise than alone.
    """

    max_rows: int
    input_axes: Mapping[str, int] = field(default_factory=dict)
    output_axes: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    sample: Mapping[str, Array] | None = None
    mixes: bool = False


def sample_axes(manifest: Manifest) -> Mapping[str, int]:
    """Returns the axis of each input along which a sample has one row: declared, or guessed first."""
    return next(iter(_candidates(manifest)), {})


def prove(
    run: Run,
    manifest: Manifest,
    max_rows: int,
    golden: Mapping[str, Array] | None,
    tried: Sequence[Recipe] | None = None,
    trouble: str = "",
) -> BatchPlan:
    """Runs the model a few times and returns the plan that this proves.

    Args:
        run: Runs the model.
        manifest: Of the version; what it declares about batching is checked as well.
        max_rows: Most rows that the server allows; 0 turns batching off.
        golden: Inputs of a golden case, which real models accept where synthetic ones may be refused; or a sample that
            was found before.
        tried: What is made up where it does not run on those; by default what suits most models.
        trouble: What it said to inputs that were tried before.
    """
    signature, declared = manifest.signature, manifest.batching or Batching()
    candidates = _candidates(manifest)
    if tried is None:
        tried = recipes(values_become_sizes=False)
    found = find_sample(run, signature, sample_axes(manifest), golden, tried)
    sample, trouble = found.inputs, found.trouble or trouble
    if not declared.enabled:
        return BatchPlan(0, reason="unbatched: the manifest says so", sample=sample)
    if max_rows < 2:
        return BatchPlan(0, reason="unbatched: the configuration says so", sample=sample)
    if not candidates:
        return BatchPlan(0, reason="unbatched: no input has a free dimension", sample=sample)
    rows = min(max_rows, declared.max_rows or max_rows)
    if sample is None:
        return _unproved(declared, signature, rows, trouble)
    failure, mixes = "", False
    for input_axes in candidates:
        output_axes, failure, mixed = _try_axes(run, manifest, input_axes, sample)
        mixes = mixes or mixed
        if output_axes is not None:
            said = "declared and proved" if declared.axes is not None else "proved"
            axes = ", ".join(f"{name} axis {axis}" for name, axis in input_axes.items())
            return BatchPlan(rows, input_axes, output_axes, f"batched ({said}: {axes})", sample)
    return BatchPlan(0, reason=f"unbatched: {failure}", sample=sample, mixes=mixes)


def _candidates(manifest: Manifest) -> list[dict[str, int]]:
    declared = manifest.batching
    if declared is not None and declared.axes is not None:
        return [dict(declared.axes)]
    return list(_likely_axes(manifest.signature))


def _likely_axes(signature: Signature) -> Iterator[dict[str, int]]:
    """Yields guesses at the inputs' batch axes: the first free dimension of each, then axis 0 alone."""
    needed = [spec for spec in signature.inputs if not spec.has_default]
    first_free = {
        spec.name: next(i for i, d in enumerate(spec.shape) if not isinstance(d, int))
        for spec in needed
        if any(not isinstance(d, int) for d in spec.shape)
    }
    if first_free:
        yield first_free
    leading = {name: axis for name, axis in first_free.items() if axis == 0}
    if leading and leading != first_free:
        yield leading


def _try_axes(
    run: Run, manifest: Manifest, input_axes: Mapping[str, int], sample: Mapping[str, Array]
) -> tuple[dict[str, int] | None, str, bool]:
    """Returns the outputs' batch axes if batching along `input_axes` changes no answer, else None and why not; and
    whether rows of a batch were answered otherwise than alone.
    """
    names = [spec.name for spec in manifest.signature.outputs]
    first, second = _one_row(sample, input_axes), _one_row(_other_values(sample, input_axes), input_axes)
    together = {
        name: np.concatenate([array, second[name]], axis=input_axes[name]) if name in input_axes else array
        for name, array in first.items()
    }
    try:
        alone = [run(first, names), run(second, names)]
        both = run(together, names)
    except TurnoutError as error:
        return None, f"a batch of two cannot be run: {error.message}", False
    axes: dict[str, int] = {}
    for index, spec in enumerate(manifest.signature.outputs):
        one, two, pair = alone[0][index], alone[1][index], both[index]
        tolerance = tolerance_of(manifest, spec)
        axis = _growing_axis(one, pair)
        if axis is None:
            if differs(one, pair, tolerance) or differs(two, pair, tolerance):
                return None, f"output {spec.name} does not grow with the batch", False
            continue
        if differs(pair, np.concatenate([one, two], axis=axis), tolerance):
            return None, f"output {spec.name} of a batch of two differs from two single answers", True
        axes[spec.name] = axis
    return (axes, "", False) if axes else (None, "no output grows with the batch", False)


def _growing_axis(one: Array, two: Array) -> int | None:
    """Returns the axis that two rows make longer by as much as one row has, or None."""
    if one.ndim != two.ndim:
        return None
    grown = [i for i, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b]
    if len(grown) != 1 or one.shape[grown[0]] != 1 or two.shape[grown[0]] != 2:
        return None
    return grown[0]


def _one_row(inputs: Mapping[str, Array], axes: Mapping[str, int]) -> dict[str, Array]:
    return {name: np.take(a, [0], axis=axes[name]) if name in axes else a for name, a in inputs.items()}


def _other_values(inputs: Mapping[str, Array], axes: Mapping[str, int]) -> dict[str, Array]:
    """Returns inputs of the same shapes whose batched values differ: reversed along their last axis and shifted."""
    return {name: _shifted(array) if name in axes else array for name, array in inputs.items()}


def _shifted(array: Array) -> Array:
    if array.dtype == object or array.dtype == np.bool_:
        return np.flip(array, axis=-1) if array.dtype == object else ~array
    if array.dtype.kind in "iu":
        # Stay within the values seen: an index past them might be out of the model's range, and a 0 a divisor.
        return (array.max() - (array - array.min())).astype(array.dtype) if array.size else array
    return (np.flip(array, axis=-1).astype(np.float32) * 0.5 + 0.25).astype(array.dtype)


def _unproved(declared: Batching, signature: Signature, rows: int, trouble: str) -> BatchPlan:
    """Plans for a model that ran on none of the inputs tried: only what its publisher declares is believed."""
    if declared.axes is None:
        return BatchPlan(0, reason=f"unbatched: no inputs were found that it runs on, so nothing is proved ({trouble})")
    inputs = {spec.name: declared.axes[spec.name] for spec in signature.inputs if spec.name in declared.axes}
    outputs = {spec.name: declared.axes[spec.name] for spec in signature.outputs if spec.name in declared.axes}
    return BatchPlan(rows, inputs, outputs, "batched (declared; could not be proved: publish a golden case)")
