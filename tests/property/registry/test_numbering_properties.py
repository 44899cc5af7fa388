"""Laws of bumps and numbers, over versions and changes of every kind."""

from hypothesis import given
from hypothesis import strategies as st
from semver import Version

from turnout.registry.compatibility.compat import VersionBump, VersionChange, required_bump, signature_changes
from turnout.registry.compatibility.numbering import above, automatic, bump_between, bumped, nearest_lower, next_version
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec

numbers = st.integers(0, 4)
cores = st.builds(Version, numbers, numbers, numbers)
pre_releases = st.builds(lambda core, n: core.replace(prerelease=f"rc.{n}"), cores, st.integers(1, 3))
any_version = cores | pre_releases
bumps = st.sampled_from(VersionBump)
changes = st.builds(VersionChange, st.just("x"), bumps, st.just("differs"))
sizes = st.none() | st.integers(0, 3) | st.sampled_from(["n", "m"])
specs = st.builds(
    TensorSpec, st.sampled_from("abc"), st.sampled_from(list(DataType)[:3]), st.lists(sizes, max_size=2).map(tuple)
)
sides = st.lists(specs, min_size=1, max_size=3, unique_by=lambda spec: spec.name).map(tuple)
signatures = st.builds(Signature, sides, sides)


@given(signatures)
def test_no_change_is_a_patch(signature: Signature) -> None:
    assert signature_changes(signature, signature) == ()
    assert required_bump(()) is VersionBump.PATCH


@given(st.lists(changes), st.lists(changes))
def test_more_reasons_never_lower_the_bump(some: list[VersionChange], more: list[VersionChange]) -> None:
    assert required_bump([*some, *more]) >= required_bump(some)
    assert required_bump([*some, *more]) is max(required_bump(some), required_bump(more))


@given(signatures, signatures)
def test_two_ways_are_a_patch_only_where_signatures_serve_each_other(one: Signature, other: Signature) -> None:
    there, back = required_bump(signature_changes(one, other)), required_bump(signature_changes(other, one))
    if there is VersionBump.PATCH:  # nothing added and nothing taken: so nothing is the other way round
        assert back is VersionBump.PATCH
    gone = {s.name for s in one.outputs} - {s.name for s in other.outputs}
    if gone:
        assert there is VersionBump.MAJOR
        assert back >= VersionBump.MINOR


@given(any_version, bumps)
def test_the_bumped_version_is_higher_and_allows_the_bump(version: Version, bump: VersionBump) -> None:
    right = bumped(version, bump)
    assert right > version
    assert bump_between(version, right) >= bump


@given(any_version, bumps, st.sets(any_version))
def test_what_is_proposed_is_legal_and_free(version: Version, bump: VersionBump, taken: set[Version]) -> None:
    right = next_version(version, bump, taken)
    assert right not in taken
    assert bump_between(version, right) >= bump


@given(st.sets(any_version), bumps)
def test_auto_is_above_all_and_legal_over_what_it_is_held_against(taken: set[Version], bump: VersionBump) -> None:
    lower = nearest_lower(above(taken), taken)
    chosen = automatic(bump, lower, taken)
    assert all(chosen > version for version in taken)
    assert not chosen.prerelease
    if lower is not None:
        assert bump_between(lower, chosen) >= bump


@given(any_version, st.sets(any_version))
def test_the_nearest_lower_is_lower_and_nothing_else_counts_between(version: Version, published: set[Version]) -> None:
    lower = nearest_lower(version, published)
    core = (version.major, version.minor, version.patch)
    between = [v for v in published if (lower is None or v > lower) and v < version]
    assert lower is None or lower < version
    assert all((v.major, v.minor, v.patch) == core and v.prerelease for v in between)
