"""What a difference between two signatures means for clients, rule by rule."""

import pytest

from turnout.registry.compatibility.compat import VersionBump, VersionChange, refusals, required_bump, signature_changes
from turnout.registry.manifest.signature import DataType, Dimension, Signature, TensorSpec

F32, F16, I32 = DataType.FLOAT32, DataType.FLOAT16, DataType.INT32


def tensor(name: str, *shape: Dimension, dtype: DataType = F32, default: bool = False) -> TensorSpec:
    return TensorSpec(name, dtype, shape, default)


def takes(*inputs: TensorSpec) -> Signature:
    return Signature(inputs, (tensor("y", None),))


def gives(*outputs: TensorSpec) -> Signature:
    return Signature((tensor("x", "rows", 4),), outputs)


def message(old: Signature, new: Signature) -> list[tuple[str, str]]:
    return [(str(change.bump), str(change)) for change in signature_changes(old, new)]


# As read from the published files: v1 of `google/magika`, then v3_2 and v3_3.
MAGIKA_1 = Signature((tensor("bytes", "unk__122", 1536),), (tensor("target_label", "unk__123", 113),))
MAGIKA_3_2 = Signature((tensor("bytes", "unk__215", 2048, dtype=I32),), (tensor("target_label", "unk__216", 214),))
MAGIKA_3_3 = Signature((tensor("bytes", "unk__214", 2048, dtype=I32),), (tensor("target_label", "unk__215", 214),))


def test_magika_3_cannot_answer_what_was_meant_for_magika_1() -> None:
    assert refusals(MAGIKA_1, MAGIKA_3_2) == (
        "input bytes takes int32 where float32 was taken",
        "input bytes dimension 1 is 2048 and was 1536",
        "output target_label dimension 1 is 214 and was 113",
    )
    assert required_bump(signature_changes(MAGIKA_1, MAGIKA_3_2)) is VersionBump.MAJOR


def test_magika_3_3_differs_from_3_2_in_names_of_dimensions_only() -> None:
    assert signature_changes(MAGIKA_3_2, MAGIKA_3_3) == ()
    assert refusals(MAGIKA_3_2, MAGIKA_3_3) == ()


def test_silero_6_takes_and_gives_what_silero_5_does_and_may_state_its_state_s_shape() -> None:
    inputs = (tensor("input", None, None), tensor("state", 2, None, 128), tensor("sr", dtype=DataType.INT64))
    silero = Signature(inputs, (tensor("output", None, 1), tensor("stateN", None, None, None)))
    stated = Signature(inputs, (tensor("output", None, 1), tensor("stateN", 2, None, 128)))

    assert signature_changes(silero, silero) == ()
    assert message(silero, stated) == [
        ("minor", "output stateN dimension 0 is fixed at 2 and was free"),
        ("minor", "output stateN dimension 2 is fixed at 128 and was free"),
    ]
    assert refusals(stated, silero) == (
        "output stateN dimension 0 is free and was fixed at 2",
        "output stateN dimension 2 is free and was fixed at 128",
    )


@pytest.mark.parametrize(
    ("old", "new", "bump", "reason"),
    [
        (tensor("x"), tensor("x", dtype=I32), "major", "takes int32 where float32 was taken"),
        (tensor("x"), tensor("x", dtype=F16), "major", "takes float16 where float32 was taken"),
        (tensor("x", dtype=F16), tensor("x"), "major", "takes float32 where float16 was taken"),
        (tensor("x", 1, 4), tensor("x", 4), "major", "has rank 1 and had rank 2"),
        (tensor("x"), tensor("x", None), "major", "has rank 1 and had rank 0"),
        (tensor("x", None, 3), tensor("x", None, 4), "major", "dimension 1 is 4 and was 3"),
        (tensor("x", 0), tensor("x", 1), "major", "dimension 0 is 1 and was 0"),
        (tensor("x", "rows"), tensor("x", 1), "major", "dimension 0 is fixed at 1 and was free"),
        (tensor("x", None), tensor("x", 1), "major", "dimension 0 is fixed at 1 and was free"),
        (tensor("x", 1), tensor("x", "rows"), "minor", "dimension 0 is free and was fixed at 1"),
        (tensor("x", 1), tensor("x", None), "minor", "dimension 0 is free and was fixed at 1"),
        (tensor("x", default=True), tensor("x"), "major", "is required and could be left out before"),
        (tensor("x"), tensor("x", default=True), "minor", "may be left out and was required before"),
    ],
)
def test_an_input_narrowed_is_major_and_one_widened_is_minor(old, new, bump, reason) -> None:
    assert message(takes(old), takes(new)) == [(bump, f"input x {reason}")]


@pytest.mark.parametrize(
    ("old", "new", "bump", "reason"),
    [
        (tensor("y"), tensor("y", dtype=I32), "major", "gives int32 where float32 was given"),
        (tensor("y"), tensor("y", dtype=F16), "major", "gives float16 where float32 was given"),
        (tensor("y", dtype=F16), tensor("y"), "major", "gives float32 where float16 was given"),
        (tensor("y", None, 4), tensor("y", None, 4, 1), "major", "has rank 3 and had rank 2"),
        (tensor("y", None, 113), tensor("y", None, 214), "major", "dimension 1 is 214 and was 113"),
        (tensor("y", 1), tensor("y", None), "major", "dimension 0 is free and was fixed at 1"),
        (tensor("y", 1), tensor("y", "rows"), "major", "dimension 0 is free and was fixed at 1"),
        (tensor("y", None), tensor("y", 1), "minor", "dimension 0 is fixed at 1 and was free"),
        (tensor("y", "found"), tensor("y", 1), "minor", "dimension 0 is fixed at 1 and was free"),
        (tensor("y", "rows"), tensor("y", 1), "major", "dimension 0 is fixed at 1 and grew with an input"),
    ],
)
def test_an_output_changed_is_major_unless_who_read_any_size_still_reads_it(old, new, bump, reason) -> None:
    assert message(gives(old), gives(new)) == [(bump, f"output y {reason}")]


def test_an_input_gone_is_major_even_where_it_could_be_left_out() -> None:
    kept = tensor("x", None)
    for gone in (tensor("bias"), tensor("bias", default=True)):
        assert message(takes(kept, gone), takes(kept)) == [("major", "input bias is gone")]


def test_a_new_input_is_major_where_it_is_required_and_minor_where_it_has_a_default() -> None:
    kept = tensor("x", None)
    assert message(takes(kept), takes(kept, tensor("bias"))) == [
        ("major", "input bias is required and was not there before")
    ]
    assert message(takes(kept), takes(kept, tensor("bias", default=True))) == [
        ("minor", "input bias is new and may be left out")
    ]


def test_an_output_gone_is_major_and_a_new_one_minor() -> None:
    one, two = gives(tensor("y")), gives(tensor("y"), tensor("z"))
    assert message(two, one) == [("major", "output z is gone")]
    assert message(one, two) == [("minor", "output z is new")]


def test_a_tensor_renamed_is_one_gone_and_one_new() -> None:
    assert message(takes(tensor("x")), takes(tensor("content"))) == [
        ("major", "input x is gone"),
        ("major", "input content is required and was not there before"),
    ]
    assert message(gives(tensor("y")), gives(tensor("scores"))) == [
        ("major", "output y is gone"),
        ("minor", "output scores is new"),
    ]


def test_an_input_turned_into_an_output_of_the_same_name_is_gone() -> None:
    old = Signature((tensor("x"), tensor("state")), (tensor("y"),))
    new = Signature((tensor("x"),), (tensor("y"), tensor("state")))
    assert message(old, new) == [("major", "input state is gone"), ("minor", "output state is new")]


def test_the_order_of_tensors_is_no_change() -> None:
    first, second = tensor("a", None), tensor("b", None)
    assert signature_changes(takes(first, second), takes(second, first)) == ()
    assert signature_changes(gives(first, second), gives(second, first)) == ()


@pytest.mark.parametrize("other", ["batch_size", "unk__215", None])
def test_another_name_for_a_free_dimension_is_no_change(other) -> None:
    old = Signature((tensor("x", "batch", 4),), (tensor("y", "batch", 2),))
    new = Signature((tensor("x", other, 4),), (tensor("y", other, 2),))
    assert signature_changes(old, new) == signature_changes(new, old) == ()


def test_a_symbol_that_inputs_share_is_no_constraint() -> None:
    apart = takes(tensor("a", "n", None), tensor("b", "m", None))
    together = takes(tensor("a", "n", "n"), tensor("b", "n", None))
    assert signature_changes(apart, together) == signature_changes(together, apart) == ()


def test_an_output_only_grew_with_an_input_if_the_older_version_said_so() -> None:
    old = Signature((tensor("x", "n"),), (tensor("y", "m"),))
    new = Signature((tensor("x", "m"),), (tensor("y", 1),))
    assert message(old, new) == [("minor", "output y dimension 0 is fixed at 1 and was free")]


def test_changes_come_in_the_signatures_order_each_on_its_own() -> None:
    old = Signature(
        (tensor("b", None, 3), tensor("a", 1), tensor("c")),
        (tensor("z", 2), tensor("y")),
    )
    new = Signature(
        (tensor("late", default=True), tensor("a", None), tensor("b", 1, 4, dtype=I32, default=True)),
        (tensor("more"), tensor("z", 3, dtype=I32)),
    )
    assert message(old, new) == [
        ("major", "input b takes int32 where float32 was taken"),
        ("major", "input b dimension 0 is fixed at 1 and was free"),
        ("major", "input b dimension 1 is 4 and was 3"),
        ("minor", "input b may be left out and was required before"),
        ("minor", "input a dimension 0 is free and was fixed at 1"),
        ("major", "input c is gone"),
        ("minor", "input late is new and may be left out"),
        ("major", "output z gives int32 where float32 was given"),
        ("major", "output z dimension 0 is 3 and was 2"),
        ("major", "output y is gone"),
        ("minor", "output more is new"),
    ]


def test_the_greatest_change_decides_and_none_is_a_patch() -> None:
    minor, major = (
        VersionChange("output y", VersionBump.MINOR, "is new"),
        VersionChange("input x", VersionBump.MAJOR, "is gone"),
    )
    assert required_bump(()) is VersionBump.PATCH
    assert required_bump([minor]) is VersionBump.MINOR
    assert required_bump([minor, major, minor]) is VersionBump.MAJOR


def test_only_major_changes_refuse_a_canary() -> None:
    baseline = takes(tensor("x", 1), tensor("c"))
    canary = takes(tensor("x", None), tensor("d", default=True))
    assert refusals(baseline, canary) == ("input c is gone",)


def test_a_bump_is_written_as_a_word_and_compares_as_a_number() -> None:
    assert [str(bump) for bump in VersionBump] == ["patch", "minor", "major"]
    assert f"{VersionBump.MAJOR} {VersionBump.MINOR:>6}" == "major  minor"
    assert VersionBump.PATCH < VersionBump.MINOR < VersionBump.MAJOR
