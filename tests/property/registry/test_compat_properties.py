"""Compatibility of signatures, held against what the server itself accepts."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from turnout.errors import InvalidTensor
from turnout.registry.compatibility.compat import VersionBump, refusals, required_bump, signature_changes
from turnout.registry.manifest.signature import DataType, Dimension, Signature, TensorSpec
from turnout.serving.inputs.validation import Validator
from turnout.serving.sessions.tensor import NUMPY_DTYPES, Array

FEW = ["a", "b", "c", "d"]
SYMBOLS = ["n", "m", "k"]
UNUSED_SIZE = 5
"""A size that no drawn signature fixes."""

dimensions = st.none() | st.integers(0, 3) | st.sampled_from(SYMBOLS)
shapes = st.lists(dimensions, max_size=3).map(tuple)
dtypes = st.sampled_from(DataType)


def sides(*, defaults: bool) -> st.SearchStrategy[tuple[TensorSpec, ...]]:
    has_default = st.booleans() if defaults else st.just(False)
    spec = st.builds(TensorSpec, st.sampled_from(FEW), dtypes, shapes, has_default)
    return st.lists(spec, max_size=3, unique_by=lambda spec: spec.name).map(tuple)


signatures = st.builds(Signature, sides(defaults=True), sides(defaults=False))


@st.composite
def altered_specs(draw: st.DrawFn, spec: TensorSpec, *, output: bool) -> TensorSpec:
    """Draws a tensor that differs from `spec` in little or nothing."""
    shape = tuple(draw(st.just(size) | dimensions) for size in spec.shape)
    match draw(st.integers(0, 9)):
        case 0:
            return replace(spec, dtype=draw(dtypes))
        case 1:
            return replace(spec, shape=draw(shapes))
        case 2 if not output:
            return replace(spec, has_default=not spec.has_default)
        case 3 | 4 | 5:
            return replace(spec, shape=shape)
        case _:
            return spec


@st.composite
def altered_sides(draw: st.DrawFn, side: tuple[TensorSpec, ...], *, output: bool) -> tuple[TensorSpec, ...]:
    kept = [draw(altered_specs(spec, output=output)) for spec in side if draw(st.integers(0, 9))]
    more = [draw(sides(defaults=not output))] if draw(st.booleans()) else []
    names = {spec.name for spec in side}
    return tuple(draw(st.permutations([*kept, *(s for specs in more for s in specs if s.name not in names)])))


@st.composite
def other_servers(draw: st.DrawFn) -> tuple[Signature, Signature]:
    """Draws two signatures that are near enough to each other to be compatible now and then."""
    old = draw(signatures)
    inputs, outputs = draw(altered_sides(old.inputs, output=False)), draw(altered_sides(old.outputs, output=True))
    return old, Signature(inputs, outputs)


pairs = other_servers() | st.tuples(signatures, signatures)

free = st.none() | st.sampled_from(SYMBOLS)


@st.composite
def widened(draw: st.DrawFn, spec: TensorSpec) -> TensorSpec:
    """Draws an input that takes whatever `spec` takes."""
    shape = tuple(draw(st.just(size) | free) if isinstance(size, int) else draw(free) for size in spec.shape)
    return replace(spec, shape=shape, has_default=spec.has_default or draw(st.booleans()))


@st.composite
def narrowed(draw: st.DrawFn, spec: TensorSpec, growing: frozenset[Dimension]) -> TensorSpec:
    """Draws an output that is read as `spec` was, where sizes in `growing` follow from inputs."""
    sizes = (size if isinstance(size, int) else draw(free if size in growing else dimensions) for size in spec.shape)
    return replace(spec, shape=tuple(sizes))


@st.composite
def successors(draw: st.DrawFn, old: Signature) -> Signature:
    """Draws a signature whose version may answer in the place of `old`'s."""
    growing = frozenset(size for spec in old.inputs for size in spec.shape if isinstance(size, str))
    inputs = [draw(widened(spec)) for spec in old.inputs]
    outputs = [draw(narrowed(spec, growing)) for spec in old.outputs]
    more_inputs = [
        replace(spec, has_default=True) for spec in draw(sides(defaults=True)) if old.input(spec.name) is None
    ]
    more_outputs = [spec for spec in draw(sides(defaults=False)) if old.output(spec.name) is None]
    return Signature(
        tuple(draw(st.permutations([*inputs, *more_inputs]))), tuple(draw(st.permutations([*outputs, *more_outputs])))
    )


compatible_pairs = signatures.flatmap(lambda old: st.tuples(st.just(old), successors(old)))


def array(spec: TensorSpec, size: Callable[[Dimension], int]) -> Array:
    return np.zeros([size(dimension) for dimension in spec.shape], NUMPY_DTYPES[spec.dtype])


def accepts(signature: Signature, inputs: dict[str, Array], outputs: list[str]) -> bool:
    try:
        Validator(signature).check(inputs, outputs)
    except InvalidTensor:
        return False
    return True


def with_symbols(signature: Signature, rename: Callable[[str], Dimension]) -> Signature:
    def renamed(spec: TensorSpec) -> TensorSpec:
        return replace(spec, shape=tuple(rename(size) if isinstance(size, str) else size for size in spec.shape))

    return Signature(tuple(map(renamed, signature.inputs)), tuple(map(renamed, signature.outputs)))


@given(signatures)
def test_equal_signatures_have_no_change(signature: Signature) -> None:
    assert signature_changes(signature, signature) == ()
    assert required_bump(()) is VersionBump.PATCH
    assert refusals(signature, signature) == ()


@given(compatible_pairs)
def test_what_is_widened_going_in_and_narrowed_coming_out_is_not_refused(pair) -> None:
    baseline, canary = pair
    assert refusals(baseline, canary) == ()


@given(compatible_pairs, st.data())
def test_a_canary_that_is_not_refused_accepts_whatever_the_baseline_accepts(pair, data) -> None:
    baseline, canary = pair
    sent = {
        spec.name: array(spec, lambda size: size if isinstance(size, int) else data.draw(st.integers(0, UNUSED_SIZE)))
        for spec in baseline.inputs
        if not spec.has_default or data.draw(st.booleans())
    }
    wanted = (
        data.draw(st.lists(st.sampled_from([o.name for o in baseline.outputs]), unique=True))
        if baseline.outputs
        else []
    )
    assert accepts(baseline, sent, wanted)
    assert accepts(canary, sent, wanted)


@given(pairs)
def test_a_canary_refused_for_its_inputs_refuses_a_request_that_the_baseline_accepts(pair) -> None:
    baseline, canary = pair
    full = {spec.name: array(spec, lambda s: s if isinstance(s, int) else UNUSED_SIZE) for spec in baseline.inputs}
    least = {spec.name: full[spec.name] for spec in baseline.inputs if not spec.has_default}
    assert accepts(baseline, full, [])
    assert accepts(baseline, least, [])

    refused = any(reason.startswith("input ") for reason in refusals(baseline, canary))
    assert refused == (not (accepts(canary, full, []) and accepts(canary, least, [])))


@given(pairs | compatible_pairs)
def test_an_output_is_refused_exactly_where_it_is_not_read_as_before(pair) -> None:
    baseline, canary = pair
    growing = {size for spec in baseline.inputs for size in spec.shape if isinstance(size, str)}
    reasons = refusals(baseline, canary)
    for read in baseline.outputs:
        now = canary.output(read.name)
        as_before = (
            now is not None
            and now.dtype == read.dtype
            and len(now.shape) == len(read.shape)
            and all(size == was for was, size in zip(read.shape, now.shape, strict=True) if isinstance(was, int))
            and not any(
                isinstance(size, int) for was, size in zip(read.shape, now.shape, strict=True) if was in growing
            )
        )
        assert as_before != any(reason.startswith(f"output {read.name} ") for reason in reasons)


@given(signatures, sides(defaults=True), sides(defaults=False))
def test_new_inputs_with_defaults_and_new_outputs_are_minor(old: Signature, inputs, outputs) -> None:
    more_inputs = tuple(replace(spec, name=f"new_{spec.name}", has_default=True) for spec in inputs)
    more_outputs = tuple(replace(spec, name=f"new_{spec.name}") for spec in outputs)
    new = Signature((*more_inputs, *old.inputs), (*more_outputs, *old.outputs))

    changes = signature_changes(old, new)
    assert [change.bump for change in changes] == [VersionBump.MINOR] * (len(inputs) + len(outputs))
    assert refusals(old, new) == ()
    # Going back takes away what clients of the newer may have come to use.
    assert len(refusals(new, old)) == len(changes)


@given(pairs)
def test_every_refusal_is_a_major_change_in_words(pair) -> None:
    old, new = pair
    changes = signature_changes(old, new)
    major = [change for change in changes if change.bump is VersionBump.MAJOR]
    assert refusals(old, new) == tuple(map(str, major))
    assert bool(major) == (required_bump(changes) is VersionBump.MAJOR)
    for change in changes:
        side, name = change.subject.split(" ")
        signature_side = (*old.inputs, *new.inputs) if side == "input" else (*old.outputs, *new.outputs)
        assert name in {spec.name for spec in signature_side}
        assert change.reason
        assert str(change) == f"{change.subject} {change.reason}"
    assert len(set(changes)) == len(changes)


@given(pairs, st.permutations(["p", "q", "r"]), st.data())
def test_the_names_of_free_dimensions_decide_nothing(pair, others, data) -> None:
    old, new = pair
    changes = signature_changes(old, new)
    other = dict(zip(SYMBOLS, others, strict=True))
    assert signature_changes(with_symbols(old, other.__getitem__), new) == changes
    # The newer one's may even be shared or dropped.
    assert (
        signature_changes(old, with_symbols(new, lambda _: data.draw(st.none() | st.sampled_from(SYMBOLS)))) == changes
    )
    assert signature_changes(old, with_symbols(old, lambda _: None)) == ()


@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_tensors_decides_nothing(pair, random) -> None:
    old, new = pair

    def shuffled(side: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(random.sample(side, len(side)))

    mixed = signature_changes(
        Signature(shuffled(old.inputs), shuffled(old.outputs)), Signature(shuffled(new.inputs), shuffled(new.outputs))
    )
    assert set(mixed) == set(signature_changes(old, new))


@given(sides(defaults=True), st.data())
def test_requests_that_pass_along_a_chain_of_inputs_pass_at_its_end(inputs, data) -> None:
    first = Signature(inputs, ())
    second = data.draw(successors(first))
    third = data.draw(successors(second))
    assert refusals(first, second) == refusals(second, third) == ()
    assert refusals(first, third) == ()
