"""Runs rows alone and together and compares the answers. Pure functions of a `run`.

This is the second proof that requests may share a run, after the analysis of the graph (`turnout.serving.rowwise`). It
finds errors in rules and kernels by running a few rows that differ as much as the model allows.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from turnout.errors import TurnoutError
from turnout.registry.compatibility.agreement import differs, tolerance_of
from turnout.registry.manifest.manifest import Manifest
from turnout.serving.inputs.rows import copied_row, join
from turnout.serving.sessions.session import Run
from turnout.serving.sessions.tensor import Array

Row = Mapping[str, Array]
"""Inputs of a one-row request."""

MOST_ROWS = 8
"""Maximum number of rows tried, which takes about thirty-six runs."""

_BUDGET_SECONDS = 1.0
_SOLE_BUDGET_SECONDS = 5.0
"""Once the runs have taken this long, the remaining rows are skipped, except that the first two are always tried. The
larger budget applies where the graph proves nothing and the runs alone decide."""

_TEXTS = np.array(["turnout", "the", "", "A", "siding", "Ünïcode"], dtype=object)
"""Words of different lengths and cases, the empty string, and typical stop words."""


class BatchDifference(Exception):
    """Raised when rows get different answers together than alone.

    Attributes:
        mixes: Whether a row's answer depends on the other rows of the batch. False if the batch could not be run or its
            sizes were wrong.
    """

    def __init__(self, message: str, *, mixes: bool) -> None:
        super().__init__(message)
        self.mixes = mixes


def check(
    run: Run,
    manifest: Manifest,
    axes: Mapping[str, int],
    rows: Sequence[Row],
    *,
    proved: Mapping[str, int] | None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, int]:
    """Returns the batch axis of each output that has one. Every other output is the same for all requests.

    Args:
        run: Runs the model.
        manifest: Manifest of the version.
        axes: Batch axis of each batched input.
        rows: At least two different rows of one shape. The model must run on the first.
        proved: Output axes that the graph proves; None if it proves nothing. If given, rounding is tolerated: far from
            usual values it may exceed any tolerance, so only the first pair is compared with single answers.
        clock: Returns the time in seconds.

    Raises:
        BatchDifference: A row's answer depends on the batch, or the batch cannot be run or divided.
    """
    names = manifest.signature.output_names
    until = clock() + (_SOLE_BUDGET_SECONDS if proved is None else _BUDGET_SECONDS)
    alone = list(_answered(run, rows, names))
    if len(alone) < 2:
        raise BatchDifference("only one of the rows that were tried can be run", mixes=False)
    first = _together(run, axes, [alone[0][0], alone[1][0]], names)
    found = _axes(manifest, alone, first)
    if not found:
        raise BatchDifference("no output grows with the batch", mixes=False)
    if proved is not None and found != dict(proved):
        raise BatchDifference(
            f"outputs grow along {_preview(found)}, the graph says along {_preview(proved)}", mixes=False
        )

    def compare(members: tuple[int, ...], values: Sequence[Array]) -> None:
        rounding = proved is None or members == (0, 1)
        _compare(manifest, found, [alone[i] for i in members], values, rounding=rounding)

    # Each batch runs once and is compared with everything comparable, since the runs take most of the time.
    for one, other in itertools.pairwise(range(len(alone))):
        if clock() > until and one:
            break
        beside_itself = _together(run, axes, [alone[one][0]] * 2, names)
        for place, pair in enumerate(((one, other), (other, one))):
            values = first if pair == (0, 1) else _together(run, axes, [alone[i][0] for i in pair], names)
            compare(pair, values)
            _compare_company(manifest, found, place, values, beside_itself)
    for members in _companies(len(alone)):
        if clock() > until:
            break
        compare(members, _together(run, axes, [alone[i][0] for i in members], names))
    return found


def rows_to_try(sample: Row, axes: Mapping[str, int], golden: Iterable[Row]) -> list[Row]:
    """Returns different rows of the sample's shape: the sample, rows of golden cases, and synthetic rows."""
    batched = {name: array for name, array in sample.items() if name in axes}
    shifted = {name: _shifted(array) for name, array in batched.items()}
    rows: list[Row] = [sample]
    for values in (shifted, *_golden_rows(sample, axes, golden), *_synthetic(batched)):
        row = {**sample, **values}
        if not any(_same(row, known) for known in rows):
            rows.append(row)
    return rows[:MOST_ROWS]


def _golden_rows(sample: Row, axes: Mapping[str, int], golden: Iterable[Row]) -> Iterator[dict[str, Array]]:
    for case in golden:
        counts = {case[name].shape[axis] for name, axis in axes.items() if name in case and case[name].ndim > axis}
        if len(counts) != 1 or not axes.keys() <= case.keys():
            continue
        for index in range(min(2, *counts, 2)):
            row = copied_row(axes, {name: case[name] for name in axes}, index)
            if all(row[name].shape == sample[name].shape for name in row):
                yield row


def _synthetic(batched: Row) -> Iterator[dict[str, Array]]:
    random = np.random.default_rng(7)
    yield {name: np.full_like(a, "" if a.dtype == object else 0) for name, a in batched.items()}
    yield {name: _extreme(a, high=True) for name, a in batched.items()}
    yield {name: _extreme(a, high=False) for name, a in batched.items()}
    if any(_is_float(a) for a in batched.values()):
        yield {name: np.full_like(a, np.nan) if _is_float(a) else a for name, a in batched.items()}
    for _ in range(2):
        yield {name: _random(random, a) for name, a in batched.items()}


def _extreme(array: Array, *, high: bool) -> Array:
    if array.dtype == object:
        return np.full_like(array, "the" if high else "A")
    if array.dtype == np.bool_:
        return np.full_like(array, high)
    if _is_float(array):
        return np.full_like(array, 1e4 if high else -1e4)
    # Stay within the values seen: a larger value used as an index might be out of range.
    return np.full_like(array, (array.max if high else array.min)(initial=0))


def _random(random: np.random.Generator, array: Array) -> Array:
    if array.dtype == object:
        return np.asarray(random.choice(_TEXTS, array.shape), dtype=object)
    if array.dtype == np.bool_:
        return np.asarray(random.integers(0, 2, array.shape)).astype(np.bool_)
    if _is_float(array):
        return np.asarray(random.standard_normal(array.shape)).astype(array.dtype)
    return np.asarray(random.integers(0, array.max(initial=0), array.shape, dtype=array.dtype, endpoint=True))


def _shifted(array: Array) -> Array:
    """Returns different values of the same kind, reversed along the last axis and shifted."""
    flipped = np.flip(array, axis=-1) if array.ndim else array
    if array.dtype == object:
        return flipped
    if array.dtype == np.bool_:
        return ~array
    if array.dtype.kind in "iu":
        # Stay within the values seen, so that a divisor does not become 0 and an index stays in range.
        return (array.max() - (array - array.min())).astype(array.dtype) if array.size else array
    return (flipped.astype(np.float32) * 0.5 + 0.25).astype(array.dtype)


def _is_float(array: Array) -> bool:
    return array.dtype != object and array.dtype != np.bool_ and array.dtype.kind not in "iu"


def _same(one: Row, other: Row) -> bool:
    return all(np.array_equal(one[name], other[name], equal_nan=_is_float(one[name])) for name in one)


def _answered(run: Run, rows: Sequence[Row], names: Sequence[str]) -> Iterator[tuple[Row, list[Array]]]:
    """Yields each row that the model runs on, with its answer."""
    for row in rows:
        try:
            yield row, run(row, names)
        except TurnoutError:
            continue


def _companies(count: int) -> list[tuple[int, ...]]:
    """Returns further groups of rows to run together: the last row with the first, and triples of adjacent rows."""
    last = [(count - 1, 0)] if count > 2 else []
    return [*last, *((i, i - 1, i - 2) for i in range(2, count))]


def _together(run: Run, axes: Mapping[str, int], rows: Sequence[Row], names: Sequence[str]) -> list[Array]:
    try:
        return run(join(axes, rows), names)
    except TurnoutError as error:
        raise BatchDifference(f"a batch of {len(rows)} cannot be run: {error.message}", mixes=False) from error


def _axes(manifest: Manifest, alone: Sequence[tuple[Row, list[Array]]], pair: Sequence[Array]) -> dict[str, int]:
    axes: dict[str, int] = {}
    for index, spec in enumerate(manifest.signature.outputs):
        one, both = alone[0][1][index], pair[index]
        axis = _growing_axis(one, both)
        if axis is not None:
            axes[spec.name] = axis
        elif any(differs(answers[index], both, tolerance_of(manifest, spec)) for _, answers in alone[:2]):
            raise BatchDifference(f"output {spec.name} does not grow with the batch", mixes=False)
    return axes


def _growing_axis(one: Array, two: Array) -> int | None:
    """Returns the only axis that is 1 long in the answer to one row and 2 long in the answer to two, or None."""
    if one.ndim != two.ndim:
        return None
    grown = [i for i, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b]
    if len(grown) != 1 or one.shape[grown[0]] != 1 or two.shape[grown[0]] != 2:
        return None
    return grown[0]


def _compare(
    manifest: Manifest,
    axes: Mapping[str, int],
    batch: Sequence[tuple[Row, list[Array]]],
    values: Sequence[Array],
    *,
    rounding: bool,
) -> None:
    """Compares the shapes of a batch's outputs with those of single answers, and their values if `rounding` is set."""
    for index, spec in enumerate(manifest.signature.outputs):
        singles = [answers[index] for _, answers in batch]
        axis = axes.get(spec.name)
        expected = (
            singles[0] if axis is None else np.concatenate(singles, axis=axis) if _joinable(singles, axis) else None
        )
        if expected is None or expected.shape != values[index].shape:
            raise BatchDifference(
                f"output {spec.name} of a batch of {len(batch)} has shape {list(values[index].shape)}, alone its rows"
                f" have {[list(single.shape) for single in singles]}",
                mixes=True,
            )
        if rounding and differs(values[index], expected, tolerance_of(manifest, spec)):
            of = "two differs from two" if len(batch) == 2 else f"{len(batch)} differs from {len(batch)}"
            raise BatchDifference(f"output {spec.name} of a batch of {of} single answers", mixes=True)


def _joinable(singles: Sequence[Array], axis: int) -> bool:
    return len({(*s.shape[:axis], *s.shape[axis + 1 :]) for s in singles}) == 1 and all(s.ndim > axis for s in singles)


def _compare_company(
    manifest: Manifest, outputs: Mapping[str, int], place: int, values: Sequence[Array], beside_itself: Sequence[Array]
) -> None:
    """Compares a row run beside another (`values`) with the same row run beside itself.

    Both runs use the same kernels, so rounding hardly matters. The row is at position `place` (0 or 1) in both batches.
    """
    for index, spec in enumerate(manifest.signature.outputs):
        axis = outputs.get(spec.name)
        if axis is None:
            continue
        if values[index].shape != beside_itself[index].shape or values[index].shape[axis] != 2:
            raise BatchDifference(f"output {spec.name} does not have one row for each of two", mixes=True)
        got, expected = (np.take(array, [place], axis=axis) for array in (values[index], beside_itself[index]))
        if differs(got, expected, tolerance_of(manifest, spec)):
            raise BatchDifference(f"output {spec.name} of a row depends on what it is batched with", mixes=True)


def _preview(axes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} axis {axis}" for name, axis in axes.items()) or "no axis"
