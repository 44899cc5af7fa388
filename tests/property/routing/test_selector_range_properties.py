"""Ranges against definitions of their own: what npm documents, said another way than the parser says it."""

from hypothesis import given
from hypothesis import strategies as st
from semver import Version

from turnout.registry.manifest.versions import precedence
from turnout.routing.selection.ranges import Range

# Few different numbers and words, so that bounds are met, neighboured and crossed.
numbers = st.sampled_from([0, 0, 1, 1, 2, 3, 9, 10, 11])
identifiers = st.sampled_from(["0", "1", "2", "10", "rc", "alpha", "beta", "rc-1", "-", "0a", "100000000000000000000"])
prereleases = st.lists(identifiers, min_size=1, max_size=3).map(".".join)
releases = st.builds(Version, numbers, numbers, numbers)
versions = st.builds(Version, numbers, numbers, numbers, st.none() | prereleases, st.sampled_from([None, None, "b1"]))

wildcards = st.sampled_from(["x", "X", "*"])
numbered = st.lists(numbers, min_size=1, max_size=3)


@st.composite
def partials(draw: st.DrawFn) -> str:
    known = [str(number) for number in draw(st.lists(numbers, max_size=3))]
    open_end = draw(st.lists(wildcards, min_size=0 if known else 1, max_size=3 - len(known)))
    text = ".".join([*known, *open_end])
    if len(known) == 3 and draw(st.booleans()):
        text += f"-{draw(prereleases)}"
    return draw(st.sampled_from(["", "", "", "v"])) + text


signs = st.sampled_from(["<", "<=", ">", ">=", "=", "^", "~", "^ ", "<= ", ">  "])
signed = st.builds("{}{}".format, signs, partials())
simples = partials() | signed
alternatives = st.lists(simples, min_size=1, max_size=3).map(" ".join) | st.builds(
    "{} - {}".format, partials(), partials()
)
ranges = st.lists(alternatives, min_size=1, max_size=3).map(" || ".join)


def satisfied(text: str, version: Version) -> bool:
    return Range.parse(text).satisfied_by(version)


def core(version: Version) -> list[int]:
    return [version.major, version.minor, version.patch]


@given(versions, versions)
def test_precedence_agrees_with_python_semver(a: Version, b: Version) -> None:
    ours = (precedence(a) > precedence(b)) - (precedence(a) < precedence(b))
    assert ours == a.compare(b)


@given(st.lists(versions, max_size=12))
def test_sorting_by_precedence_is_sorting_by_python_semver(items: list[Version]) -> None:
    assert list(map(str, sorted(items, key=precedence))) == list(map(str, sorted(items)))


@given(numbered, st.lists(wildcards, max_size=2), st.sampled_from(["", "="]), releases)
def test_an_x_range_holds_what_starts_with_its_numbers(
    known: list[int], open_end: list[str], sign: str, version: Version
) -> None:
    text = sign + ".".join([*map(str, known), *open_end][:3])
    assert satisfied(text, version) == (core(version)[: len(known)] == known)


@given(numbered, releases)
def test_a_tilde_lets_the_patch_grow_or_the_minor_where_none_is_written(known: list[int], version: Version) -> None:
    kept = known[:2]
    grown = core(version) >= [*known, 0, 0][:3]
    assert satisfied("~" + ".".join(map(str, known)), version) == (core(version)[: len(kept)] == kept and grown)


@given(numbered, releases)
def test_a_caret_keeps_all_up_to_the_leftmost_number_that_is_not_zero(known: list[int], version: Version) -> None:
    kept = next((i + 1 for i, number in enumerate(known) if number), len(known))
    grown = core(version) >= [*known, 0, 0][:3]
    assert satisfied("^" + ".".join(map(str, known)), version) == (core(version)[:kept] == known[:kept] and grown)


@given(st.sampled_from(["<", "<=", ">", ">="]), numbered, releases)
def test_a_comparator_of_a_part_compares_that_part(sign: str, known: list[int], version: Version) -> None:
    part = core(version)[: len(known)]
    holds = {"<": part < known, "<=": part <= known, ">": part > known, ">=": part >= known}[sign]
    assert satisfied(sign + ".".join(map(str, known)), version) == holds


@given(numbered, numbered, releases)
def test_a_hyphen_range_holds_from_the_first_to_all_that_the_last_covers(
    first: list[int], last: list[int], version: Version
) -> None:
    text = f"{'.'.join(map(str, first))} - {'.'.join(map(str, last))}"
    holds = first <= core(version)[: len(first)] and core(version)[: len(last)] <= last
    assert satisfied(text, version) == holds


@given(st.sampled_from(["<", "<=", ">", ">=", "="]), versions, versions)
def test_a_comparator_of_a_whole_version_is_python_semvers_comparison(
    sign: str, bound: Version, version: Version
) -> None:
    holds = {"<": version < bound, "<=": version <= bound, ">": version > bound, ">=": version >= bound}
    admitted = not version.prerelease or (bool(bound.prerelease) and core(bound) == core(version))
    assert satisfied(f"{sign}{bound}", version) == (holds.get(sign, version == bound) and admitted)


@given(ranges, versions)
def test_a_prerelease_needs_a_bound_that_is_a_prerelease_of_the_same_core_version(text: str, version: Version) -> None:
    named = f"{version.major}.{version.minor}.{version.patch}-"
    if version.prerelease and named not in text:
        assert not satisfied(text, version)


@given(ranges, ranges, versions)
def test_alternatives_add_up(a: str, b: str, version: Version) -> None:
    assert satisfied(f"{a} || {b}", version) == (satisfied(a, version) or satisfied(b, version))


@given(simples, simples, releases)
def test_a_space_between_comparators_means_and(a: str, b: str, version: Version) -> None:
    assert satisfied(f"{a} {b}", version) == (satisfied(a, version) and satisfied(b, version))


@given(st.lists(signed, min_size=2, max_size=4))
def test_a_comma_means_what_a_space_means(comparators: list[str]) -> None:
    spaced = Range.parse(" ".join(comparators))
    assert Range.parse(", ".join(comparators)) == spaced
    assert Range.parse(" ,".join(comparators)) == spaced


@given(ranges)
def test_a_range_read_back_from_its_comparators_is_the_same(text: str) -> None:
    wanted = Range.parse(text)
    written = " || ".join(" ".join(map(str, comparators)) or "*" for comparators in wanted.alternatives)
    assert Range.parse(written) == wanted


@given(ranges, versions)
def test_build_metadata_changes_nothing(text: str, version: Version) -> None:
    assert satisfied(text, version) == satisfied(text, version.replace(build="other"))
