"""How two answers compare: each measure and each kind, on values worked out by hand."""

import math

import ml_dtypes
import numpy as np
import pytest

from turnout.registry.manifest.manifest import Tolerance
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.routing.shadow.compare import MismatchKind, OutputComparison, OutputRule, compare, rules_for

EXACT = OutputRule(Tolerance(0.0, 0.0), scores=False)


def one(expected: object, actual: object, rule: OutputRule | None = None) -> OutputComparison:
    rules = {} if rule is None else {"y": rule}
    (output,) = compare({"y": np.asarray(expected)}, {"y": np.asarray(actual)}, rules).outputs
    return output


def f32(*values: object) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_measures_of_a_difference() -> None:
    seen = one([3.0, 4.0, 0.0], [3.0, 2.0, 1.0])
    assert seen.kind is MismatchKind.VALUE
    assert (seen.elements, seen.differing) == (3, 2)
    assert seen.max_abs == 2.0
    assert seen.max_rel == 0.5  # where the baseline is 0 nothing is relative to it
    assert seen.rmse == pytest.approx(math.sqrt(5 / 3))
    assert seen.cosine == pytest.approx(17 / (5 * math.sqrt(14)))
    assert "2 of 3 elements are beyond tolerance" in seen.detail


def test_equal_answers_have_no_difference_at_all() -> None:
    for values in (f32(1, 2, 3), np.arange(4), np.array([True]), np.array(["a"], object), f32(), f32(math.nan)):
        seen = one(values, values.copy())
        assert (seen.kind, seen.detail, seen.max_abs, seen.rmse, seen.cosine) == (None, "", 0.0, 0.0, 1.0)
        assert (seen.differing, seen.severity) == (0, 0.0)


@pytest.mark.parametrize(
    ("dtype", "apart", "agrees"),
    [
        (np.float64, 0.9e-5, True),
        (np.float64, 1.1e-5, False),
        (np.float32, 0.9e-3, True),
        (np.float32, 1.2e-3, False),
        (np.float16, 0.9e-2, True),
        (np.float16, 1.3e-2, False),
        (ml_dtypes.bfloat16, 0.05, True),
        (ml_dtypes.bfloat16, 0.08, False),
    ],
)
def test_each_float_has_a_tolerance_of_its_own(dtype, apart: float, agrees: bool) -> None:
    assert one(np.array([1.0, 5.0], dtype), np.array([1.0 + apart, 5.0], dtype)).agrees is agrees


@pytest.mark.parametrize(
    ("expected", "actual", "kind"),
    [
        (f32(1, 2), f32(1), MismatchKind.SHAPE),
        (f32(1, 2), f32([1, 2]), MismatchKind.SHAPE),
        (f32(1), np.array([1.0]), MismatchKind.DTYPE),
        (f32(1, 2), f32(1, math.nan), MismatchKind.NONFINITE),
        (f32(1, math.nan), f32(1, 2), MismatchKind.NONFINITE),
        (f32(math.inf), f32(-math.inf), MismatchKind.NONFINITE),
        (f32(1, 2), f32(1, 2.1), MismatchKind.VALUE),
        (np.array([1, 2]), np.array([1, 3]), MismatchKind.EXACT),
        (np.array([True]), np.array([False]), MismatchKind.EXACT),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), MismatchKind.EXACT),
    ],
)
def test_each_kind_of_mismatch(expected, actual, kind: MismatchKind) -> None:
    seen = one(expected, actual)
    assert seen.kind is kind
    assert seen.detail
    assert seen.severity > 0


def test_an_output_that_the_shadow_lacks_is_missing_and_one_it_adds_is_nobodys() -> None:
    seen = compare({"y": f32(1)}, {"z": f32(1)}, {})
    assert [(output.name, output.kind) for output in seen.outputs] == [("y", MismatchKind.MISSING)]
    assert compare({}, {"z": f32(1)}, {}).agrees


def test_infinities_and_nans_in_the_same_places_agree() -> None:
    values = f32(1, math.inf, -math.inf, math.nan)
    assert one(values, values + f32(1e-6, 0, 0, 0)).agrees


def test_nans_do_not_hide_what_else_differs() -> None:
    seen = one(f32(1, math.nan, 5), f32(3, math.nan, 5))
    assert (seen.kind, seen.max_abs) == (MismatchKind.VALUE, 2.0)


def test_integers_as_wide_as_can_be_are_told_apart_and_measured() -> None:
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    assert one(np.array([low]), np.array([high])).max_abs == pytest.approx(2.0**64)
    close = one(np.array([2**63], np.uint64), np.array([2**63 + 1], np.uint64))
    assert (close.kind, close.max_abs) == (MismatchKind.EXACT, 1.0)  # one in float64


def test_strings_have_no_measures() -> None:
    seen = one(np.array(["a", "b"], object), np.array(["a", "c"], object))
    assert math.isnan(seen.max_abs)
    assert seen.detail == "1 of 2 elements differ"


def test_two_zero_vectors_have_the_same_direction_and_one_has_none() -> None:
    assert one(f32(0, 0), f32(0, 0)).cosine == 1.0
    assert one(f32(0, 0), f32(1, 0)).cosine == 0.0
    assert one(f32(1, 0), f32(-1, 0)).cosine == -1.0


def test_scores_are_told_by_their_values_and_agree_by_their_winner() -> None:
    expected = f32([0.7, 0.2, 0.1], [0.1, 0.8, 0.1])
    other_values = f32([0.6, 0.3, 0.1], [0.2, 0.7, 0.1])
    seen = one(expected, other_values)
    assert (seen.kind, seen.top1, seen.top_k, seen.margin) == (None, 1.0, 1.0, None)
    assert seen.max_abs == pytest.approx(0.1)

    other_winner = f32([0.7, 0.2, 0.1], [0.5, 0.4, 0.1])
    seen = one(expected, other_winner)
    assert (seen.kind, seen.top1) == (MismatchKind.TOP1, 0.5)
    assert seen.margin == pytest.approx(0.7)
    assert "1 of 2 rows have another winner" in seen.detail
    # Logits are no scores unless declared.
    assert one(10 * expected, 10 * other_values).kind is MismatchKind.VALUE
    declared = OutputRule(Tolerance(1e-5, 1e-3), scores=True)
    assert one(10 * expected, 10 * other_values, declared).kind is None
    assert one(expected, other_values, OutputRule(Tolerance(1e-5, 1e-3), scores=False)).kind is MismatchKind.VALUE
    strict = OutputRule(Tolerance(1e-5, 1e-3), strict_values=True)
    assert one(expected, other_values, strict).kind is MismatchKind.VALUE


def test_winners_that_tie_within_tolerance_are_the_same() -> None:
    seen = one(f32([0.5, 0.499999, 0.000001]), f32([0.499999, 0.5, 0.000001]))
    assert (seen.kind, seen.top1) == (None, 1.0)


def test_top_k_is_the_share_of_the_highest_that_both_have() -> None:
    rule = OutputRule(Tolerance(0.0, 0.0), scores=True, top_k=2)
    seen = one(f32([4, 3, 2, 1], [4, 3, 2, 1]), f32([4, 1, 2, 3], [4, 3, 1, 2]), rule)
    assert seen.top_k == 0.75
    assert seen.top1 == 1.0


def test_a_row_of_scores_with_a_nan_has_lost_its_winner() -> None:
    seen = one(f32([0.7, 0.3]), f32([math.nan, 0.3]))
    assert (seen.kind, seen.top1) == (MismatchKind.NONFINITE, 0.0)


def test_worse_differences_are_more_severe() -> None:
    ordered = [
        one(f32(1, 2), f32(1, 2.001)),
        one(f32(1, 2), f32(1, 2.1)),
        one(f32(1, 2), f32(1, 200)),
        one(f32([0.6, 0.4]), f32([0.4, 0.6])),
        one(f32([0.9, 0.1]), f32([0.4, 0.6])),
        one(f32(1, 2), f32(1, math.nan)),
        one(f32(1, 2), f32(math.nan, math.nan)),
        one(f32(1, 2), f32(1)),
    ]
    severities = [seen.severity for seen in ordered]
    assert severities == sorted(severities)
    assert severities[0] == 0.0  # within tolerance
    assert len(set(severities)) == len(severities)


def test_the_worst_output_decides() -> None:
    both = compare(
        {"a": f32(1, 5), "b": f32(1, 5)}, {"a": f32(1, 5.2), "b": f32(math.nan, 5)}, {"a": EXACT, "b": EXACT}
    )
    assert not both.agrees
    assert both.worst is not None
    assert both.worst.name == "b"
    assert both.severity == both.worst.severity
    assert compare({"a": f32(1)}, {"a": f32(1)}, {}).worst is None


def signature(**dtypes: DataType) -> Signature:
    return Signature((), tuple(TensorSpec(name, dtype, ("n",)) for name, dtype in dtypes.items()))


def test_a_name_goes_before_a_dtype_and_a_dtype_before_the_default() -> None:
    given = {"a": Tolerance(1.0, 0.0), "float32": Tolerance(2.0, 0.0)}
    rules = rules_for(
        signature(a=DataType.FLOAT32, b=DataType.FLOAT32, c=DataType.FLOAT16, d=DataType.INT64),
        given,
        {"b": True, "c": False},
        top_k=3,
    )
    assert [rules[name].tolerance.atol for name in "abcd"] == [1.0, 2.0, 1e-3, 0.0]
    assert [rules[name].scores for name in "abcd"] == [None, True, False, None]
    # Who gives a tolerance by name wants values compared, scores or not.
    assert [rules[name].strict_values for name in "abcd"] == [True, False, False, False]
    assert {rule.top_k for rule in rules.values()} == {3}


def test_no_k_below_one() -> None:
    with pytest.raises(ValueError, match="top_k is 0"):
        rules_for(signature(a=DataType.FLOAT32), top_k=0)


def test_large_outputs_are_measured_by_the_block_as_a_whole() -> None:
    draw = np.random.default_rng(7)
    expected = draw.normal(size=50_001)
    actual = expected + draw.normal(scale=1e-3, size=50_001)
    seen = one(expected, actual)
    difference = np.abs(expected - actual)
    assert seen.max_abs == difference.max()
    assert seen.rmse == pytest.approx(math.sqrt(np.mean(difference**2)))
    assert seen.cosine == pytest.approx(expected @ actual / np.linalg.norm(expected) / np.linalg.norm(actual))
    assert seen.differing == np.count_nonzero(difference > 1e-7 + 1e-5 * np.abs(expected))
