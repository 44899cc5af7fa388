"""Whatever a client writes is read as one thing or refused, and reaches only what it may reach."""

import re

from hypothesis import given
from hypothesis import strategies as st
from semver import Version

from turnout.errors import InvalidRequest, InvalidSelector, VersionNotFound
from turnout.routing.selection.resolution import VersionIndex, resolve
from turnout.routing.selection.selector import ByTag, Default, Exact, InRange, Latest, Selector, parse, tag_name
from turnout.state.release_status import ReleaseStatus

numbers = st.sampled_from([0, 1, 2, 9, 10])
prereleases = st.sampled_from([None, None, None, "rc.1", "rc.2", "rc.10", "alpha"])
versions = st.builds(Version, numbers, numbers, numbers, prereleases)

version_like = st.text("0123456789.xvX*^~<>=|- ,+rc", max_size=24)
terms = st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True)
selectors = st.one_of(
    st.just(""),
    st.just("latest"),
    terms.filter(lambda term: not re.fullmatch(r"v[0-9]+", term)),  # these are versions, well-formed or not
    versions.map(str),
    versions.map("v{}".format),
    st.builds("{}{}".format, st.sampled_from(["^", "~", "=", "<", "<=", ">", ">=", "^v"]), versions),
    st.builds("{}{}.{}".format, st.sampled_from(["", "^", "~", ">"]), numbers, numbers | st.just("x")),
    st.builds("{} - {}".format, versions, versions),
    st.builds(">={} <{} || ^{}".format, versions, versions, versions),
    st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
)


@st.composite
def indexes(draw: st.DrawFn) -> VersionIndex:
    release_statuses = draw(st.dictionaries(versions, st.sampled_from(ReleaseStatus), max_size=8))
    known = sorted(release_statuses)
    some = st.sets(st.sampled_from(known)) if known else st.just(set())
    tags = draw(st.dictionaries(st.sampled_from(["stable", "champion"]), versions))
    return VersionIndex.of("m", release_statuses, tags=tags, ready=draw(some), coming=draw(some))


def read(text: str) -> Selector | None:
    try:
        return parse(text)
    except InvalidSelector:
        return None


@given(st.text() | version_like | selectors)
def test_any_text_is_a_selector_or_an_invalid_one_and_never_something_else(text: str) -> None:
    read(text)


@given(st.text(max_size=40) | version_like | selectors)
def test_a_selector_written_out_reads_as_the_same_selector(text: str) -> None:
    selector = read(text)
    if selector is not None:
        assert parse(str(selector)) == selector


@given(selectors)
def test_what_the_grammar_allows_is_never_refused(text: str) -> None:
    parse(text)


@given(selectors, st.integers(0, 80), st.characters(exclude_categories=(), codec=None))
def test_a_character_that_no_selector_holds_spoils_it(text: str, at: int, character: str) -> None:
    if text and not re.fullmatch(r"[0-9A-Za-z.*^~<>=|, +_:-]", character):
        assert read(text[:at] + character + text[at:]) is None


@given(terms | version_like)
def test_a_tag_can_be_named_exactly_where_it_would_be_read_as_one(text: str) -> None:
    try:
        named = tag_name(text)
    except InvalidRequest:
        assert not isinstance(read(text), ByTag)
    else:
        assert read(named) == ByTag(text)


@given(versions)
def test_every_version_can_be_pinned_as_it_is_written(version: Version) -> None:
    assert parse(str(version)) == parse(f"v{version}") == Exact(version)


@given(indexes(), selectors, st.booleans())
def test_ranges_latest_and_the_empty_selector_reach_released_versions_only(
    index: VersionIndex, text: str, prefer_ready: bool
) -> None:
    selector = parse(text)
    if isinstance(selector, Default | Latest | InRange):
        try:
            found = resolve(selector, index, prefer_ready=prefer_ready)
        except VersionNotFound:
            return
        assert found in index.released
        if not isinstance(selector, InRange):
            assert found.prerelease is None


@given(indexes(), selectors)
def test_of_the_released_versions_that_fit_the_highest_one_that_is_ready_answers(
    index: VersionIndex, text: str
) -> None:
    selector = parse(text)
    if not isinstance(selector, Default | Latest | InRange):
        return
    fitting = [
        version
        for version in index.released
        if (selector.range.satisfied_by(version) if isinstance(selector, InRange) else not version.prerelease)
    ]
    try:
        found = resolve(selector, index)
    except VersionNotFound:
        assert fitting == []
        return
    ready = [version for version in fitting if version in index.ready]
    coming = [version for version in fitting if version in index.coming]
    assert found == max(ready or coming or fitting)
    assert resolve(selector, index, prefer_ready=False) == max(fitting)


@given(indexes(), versions)
def test_a_pin_finds_what_exists_and_nothing_else(index: VersionIndex, version: Version) -> None:
    try:
        assert resolve(Exact(version), index) == version
    except VersionNotFound:
        assert version not in index.versions


@given(indexes(), versions)
def test_the_versions_around_one_are_its_neighbours_in_order(index: VersionIndex, version: Version) -> None:
    above = sorted(v for v in index.versions if v > version)[:2]
    below = sorted((v for v in index.versions if v <= version), reverse=True)[:2]
    assert list(index.around(version)) == [*reversed(above), *below]


@given(indexes(), st.sampled_from(["stable", "champion", "other"]))
def test_a_tag_names_its_version_or_nothing(index: VersionIndex, name: str) -> None:
    try:
        assert resolve(ByTag(name), index) == index.tags[name]
    except VersionNotFound:
        assert name not in index.tags or index.tags[name] not in index.versions
