"""What tells the same model in another form from another model."""

from dataclasses import replace

import numpy as np
import pytest
from semver import Version

from turnout.registry.compatibility.agreement import AnswerAgreement, agree, largest_difference
from turnout.registry.compatibility.compat import VersionBump, declared_changes, required_bump
from turnout.registry.compatibility.model_equivalence import ModelEquivalence, WeightsEquivalence, equivalence_changes
from turnout.registry.compatibility.sandbox import ExampleResult
from turnout.registry.manifest.manifest import FileEntry, Manifest
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", DataType.FLOAT32, (None, 4)),), (TensorSpec("y", DataType.FLOAT32, (None, 3)),))
MANIFEST = Manifest("m", Version(1), (FileEntry("model.onnx", 1, f"sha256:{'0' * 64}"),), SIGNATURE, {"": 17}, 8)
ALIKE = AnswerAgreement(examples=9, golden=1)
APART = AnswerAgreement(
    examples=9, golden=1, within=False, close=False, furthest="output y of golden/a.npz", largest=0.5
)


def required(equivalence: ModelEquivalence) -> VersionBump:
    return required_bump(equivalence_changes(equivalence))


@pytest.mark.parametrize(
    ("equivalence", "bump"),
    [
        (ModelEquivalence(WeightsEquivalence.SAME_FILES), VersionBump.PATCH),
        (ModelEquivalence(WeightsEquivalence.SAME_AS_STORED, agreement=ALIKE), VersionBump.PATCH),
        (ModelEquivalence(WeightsEquivalence.SAME_OPTIMISED, agreement=ALIKE), VersionBump.PATCH),
        (ModelEquivalence(WeightsEquivalence.SAME_AS_STORED, agreement=APART), VersionBump.MINOR),
        (ModelEquivalence(WeightsEquivalence.SAME_OPTIMISED, agreement=APART), VersionBump.MINOR),
        (ModelEquivalence(WeightsEquivalence.OTHERS, tensors=3, changed=1), VersionBump.MINOR),
        (ModelEquivalence(WeightsEquivalence.SAME_AS_STORED, same_operators=True), VersionBump.PATCH),
        (ModelEquivalence(WeightsEquivalence.SAME_AS_STORED, same_operators=False), VersionBump.MINOR),
        (
            ModelEquivalence(WeightsEquivalence.SAME_AS_STORED, same_operators=False, agreement=AnswerAgreement()),
            VersionBump.MINOR,
        ),
        (ModelEquivalence(WeightsEquivalence.UNKNOWN, agreement=ALIKE), VersionBump.PATCH),
        (ModelEquivalence(WeightsEquivalence.UNKNOWN, agreement=replace(ALIKE, examples=7)), VersionBump.MINOR),
        (ModelEquivalence(WeightsEquivalence.UNKNOWN, agreement=replace(ALIKE, close=False)), VersionBump.MINOR),
        (ModelEquivalence(WeightsEquivalence.UNKNOWN), VersionBump.MINOR),
    ],
)
def test_a_patch_is_the_same_weights_and_the_same_answers(equivalence: ModelEquivalence, bump: VersionBump) -> None:
    assert required(equivalence) is bump


def test_the_reason_names_what_was_answered_otherwise() -> None:
    (change,) = equivalence_changes(ModelEquivalence(WeightsEquivalence.SAME_AS_STORED, agreement=APART))
    assert str(change) == "answers differ, though the weights are the same: output y of golden/a.npz by 0.5"


@pytest.mark.parametrize(
    ("old", "new", "bump", "message"),
    [
        ({}, {"y": ("a", "b", "c")}, VersionBump.PATCH, "labels of y are declared for the first time"),
        ({"y": ("a", "b", "c")}, {}, VersionBump.MAJOR, "labels of y are no longer declared"),
        (
            {"y": ("a", "b", "c")},
            {"y": ("b", "a", "c")},
            VersionBump.MAJOR,
            "labels of y are the same in another order",
        ),
        (
            {"y": ("a", "b", "c")},
            {"y": ("a", "b", "d")},
            VersionBump.MAJOR,
            "labels of y changed: 1 are gone (c), 1 are new (d)",
        ),
    ],
)
def test_labels_that_change_are_a_major_change(old: dict, new: dict, bump: VersionBump, message: str) -> None:
    (change,) = declared_changes(replace(MANIFEST, labels=old), replace(MANIFEST, labels=new))
    assert (change.bump, str(change)) == (bump, message)


def test_preprocessing_that_changes_is_a_major_change() -> None:
    one, other = replace(MANIFEST, preprocessing={"x": "crop"}), replace(MANIFEST, preprocessing={"x": "pad"})
    assert [str(c) for c in declared_changes(one, other)] == ["preprocessing changed: x"]
    assert required_bump(declared_changes(one, other)) is VersionBump.MAJOR
    assert required_bump(declared_changes(one, MANIFEST)) is VersionBump.MAJOR
    assert required_bump(declared_changes(MANIFEST, one)) is VersionBump.PATCH
    assert declared_changes(one, one) == ()


def answer(example: str, values: list[float] | None, *, golden: bool = False) -> ExampleResult:
    outputs = {} if values is None else {"y": np.array([values], np.float32)}
    return ExampleResult(example, golden, outputs, "" if values is not None else "it raised")


def test_answers_agree_within_tolerance_and_are_close_only_in_their_small_values_too() -> None:
    scores, others = answer("a", [1.0, 1e-6, 2e-6], golden=True), answer("a", [1.0, 9e-6, 2e-6], golden=True)
    assert agree(MANIFEST, [scores], [scores]) == AnswerAgreement(1, 1)
    apart = agree(MANIFEST, [scores], [others])
    assert (apart.within, apart.close) == (True, False)
    assert apart.furthest == "output y of a"


def test_an_example_that_one_alone_answers_is_no_agreement() -> None:
    assert not agree(MANIFEST, [answer("a", [1, 2, 3])], [answer("a", None)]).within
    assert agree(MANIFEST, [answer("a", None)], [answer("a", None)]) == AnswerAgreement()
    assert agree(MANIFEST, [answer("a", [1, 2, 3])], [answer("b", [1, 2, 3])]) == AnswerAgreement()


def test_the_largest_difference_counts_infinities_and_numbers_that_are_none() -> None:
    inf, nan = float("inf"), float("nan")
    assert largest_difference(np.array([inf, 1.0]), np.array([inf, 3.0])) == 2.0
    assert largest_difference(np.array([nan, 1.0]), np.array([nan, 1.0])) == 0.0
    assert largest_difference(np.array([nan]), np.array([1.0])) == inf
    assert largest_difference(np.array([1.0]), np.array([1.0, 2.0])) == inf
    assert largest_difference(np.array(["a"], object), np.array(["b"], object)) == inf
