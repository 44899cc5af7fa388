"""Comparing, on arrays of every kind: nothing raises or warns, and what is measured is what NumPy measures plainly."""

import math
import warnings

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from turnout.registry.manifest.manifest import Tolerance
from turnout.registry.manifest.signature import DataType
from turnout.routing.shadow.compare import MismatchKind, OutputComparison, OutputRule, compare
from turnout.serving.sessions.tensor import NUMPY_DTYPES, Array

shapes = st_np.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
wire_types = st.sampled_from(DataType)
rules = st.builds(
    OutputRule,
    st.builds(Tolerance, st.floats(0, 10), st.floats(0, 1)),
    st.none() | st.booleans(),
    st.booleans(),
    st.integers(1, 6),
)


@st.composite
def arrays(draw: st.DrawFn, dtype: DataType, shape: tuple[int, ...]) -> Array:
    form = NUMPY_DTYPES[dtype]
    if dtype is DataType.STRING:
        return draw(st_np.arrays(object, shape, elements=st.text(max_size=3)))
    if dtype is DataType.BFLOAT16:
        return draw(st_np.arrays(np.float32, shape)).astype(form)
    return draw(st_np.arrays(form, shape))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Array, Array]:
    """Draws two arrays, mostly of one form."""
    dtype, shape = draw(wire_types), draw(shapes)
    expected = draw(arrays(dtype, shape))
    match draw(st.integers(0, 5)):
        case 0:
            return expected, expected.copy()
        case 1:
            return expected, draw(arrays(draw(wire_types), draw(shapes)))
        case _:
            return expected, draw(arrays(dtype, shape))


@st.composite
def tame_pairs(draw: st.DrawFn) -> tuple[Array, Array]:
    """Draws two float64 arrays of one shape whose squares are numbers."""
    shape = draw(st_np.array_shapes(max_dims=3, max_side=5))
    elements = st.integers(-(10**9), 10**9).map(lambda number: number / 1024)
    same = st_np.arrays(np.float64, shape, elements=elements)
    return draw(same), draw(same)


def one(expected: Array, actual: Array, rule: OutputRule | None = None) -> OutputComparison:
    (output,) = compare({"y": expected}, {"y": actual}, {} if rule is None else {"y": rule}).outputs
    return output


@given(pairs(), st.none() | rules)
def test_no_pair_raises_or_warns_and_every_measure_is_in_its_range(pair, rule) -> None:
    expected, actual = pair
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = one(expected, actual, rule)
    assert seen.agrees == (seen.kind is None) == (seen.severity == 0.0) == (seen.detail == "")
    assert 0 <= seen.differing <= seen.elements == expected.size
    assert seen.severity >= 0
    for measure in (seen.max_abs, seen.max_rel, seen.rmse):
        assert math.isnan(measure) or measure >= 0
    assert math.isnan(seen.cosine) or -1 <= seen.cosine <= 1
    for share in (seen.top1, seen.top_k):
        assert share is None or 0 <= share <= 1


@given(pairs(), st.none() | rules)
def test_an_answer_agrees_with_itself(pair, rule) -> None:
    for array in pair:
        seen = one(array, array.copy(), rule)
        assert seen.agrees
        assert (seen.max_abs, seen.rmse, seen.cosine, seen.differing) == (0.0, 0.0, 1.0, 0)
        assert seen.top1 in (None, 1.0)


@given(pairs())
def test_forms_that_differ_are_told_before_values(pair) -> None:
    expected, actual = pair
    kind = one(expected, actual).kind
    if expected.dtype != actual.dtype:
        assert kind is MismatchKind.DTYPE
    elif expected.shape != actual.shape:
        assert kind is MismatchKind.SHAPE
    else:
        assert kind not in (MismatchKind.DTYPE, MismatchKind.SHAPE, MismatchKind.MISSING)


@given(tame_pairs(), rules)
def test_the_measures_are_those_of_their_definitions(pair, rule) -> None:
    expected, actual = pair
    seen = one(expected, actual, rule)
    difference = np.abs(expected - actual)
    assert seen.max_abs == difference.max()
    assert math.isclose(seen.rmse, math.sqrt(np.mean(difference**2)), rel_tol=1e-9, abs_tol=1e-300)
    nonzero = expected != 0
    relative = (difference[nonzero] / np.abs(expected[nonzero])).max(initial=0.0)
    assert math.isclose(seen.max_rel, relative, rel_tol=1e-12)
    bound = rule.tolerance.atol + rule.tolerance.rtol * np.abs(expected)
    assert seen.differing == np.count_nonzero(difference > bound)


@given(tame_pairs(), rules)
def test_a_wider_tolerance_never_makes_a_disagreement(pair, rule) -> None:
    expected, actual = pair
    wider = OutputRule(
        Tolerance(2 * rule.tolerance.atol, 2 * rule.tolerance.rtol), rule.scores, rule.strict_values, rule.top_k
    )
    narrow, wide = one(expected, actual, rule), one(expected, actual, wider)
    assert wide.differing <= narrow.differing
    if narrow.agrees:
        assert wide.agrees


@given(tame_pairs(), rules, st.randoms(use_true_random=False))
def test_the_order_of_rows_decides_nothing(pair, rule, random) -> None:
    expected, actual = (array.reshape(-1, array.shape[-1]) for array in pair)
    order = random.sample(range(len(expected)), len(expected))
    seen, mixed = one(expected, actual, rule), one(expected[order], actual[order], rule)
    assert (seen.kind, seen.differing, seen.max_abs, seen.top1) == (
        mixed.kind,
        mixed.differing,
        mixed.max_abs,
        mixed.top1,
    )


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=6, unique=True), st.data())
def test_a_winner_is_the_same_exactly_where_the_highest_is_at_the_same_place(scores, data) -> None:
    other = data.draw(st.permutations(scores))
    rule = OutputRule(Tolerance(0.0, 0.0), scores=True)
    seen = one(np.array([scores], np.float32), np.array([other], np.float32), rule)
    same = scores.index(max(scores)) == other.index(max(other))
    assert seen.top1 == float(same)
    assert seen.agrees is same
    if not same:
        assert seen.margin == max(scores) - scores[other.index(max(other))]
