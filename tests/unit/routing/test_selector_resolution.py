"""Which of the versions that exist a selector names."""

from collections.abc import Sequence

import pytest
from semver import Version

from turnout.errors import InvalidSelector, VersionNotFound
from turnout.routing.selection import resolution
from turnout.routing.selection.resolution import VersionIndex, resolve
from turnout.routing.selection.selector import parse
from turnout.state.release_status import ModelReleaseState, ReleaseStatus


def versions(text: str) -> list[Version]:
    return [Version.parse(term) for term in text.split()]


def index(
    released: str = "", candidates: str = "", yanked: str = "", ready: str = "", coming: str = "", **tags: str
) -> VersionIndex:
    release_statuses = dict.fromkeys(versions(released), ReleaseStatus.RELEASED)
    release_statuses |= dict.fromkeys(versions(candidates), ReleaseStatus.CANDIDATE)
    release_statuses |= dict.fromkeys(versions(yanked), ReleaseStatus.YANKED)
    return VersionIndex.of(
        "magika",
        release_statuses,
        tags={tag: Version.parse(version) for tag, version in tags.items()},
        digests={digest_of(version): version for version in release_statuses},
        ready=versions(ready),
        coming=versions(coming),
    )


def digest_of(version: Version) -> str:
    return "sha256:" + str(version).encode().hex().rjust(64, "0")


def named(text: str, among: VersionIndex, *, prefer_ready: bool = True) -> str:
    return str(resolve(parse(text), among, prefer_ready=prefer_ready))


def refusal(text: str, among: VersionIndex) -> str:
    with pytest.raises(VersionNotFound) as caught:
        resolve(parse(text), among)
    return caught.value.message


def test_versions_order_as_numbers_and_not_as_strings() -> None:
    among = index(released="1.9.0 1.10.0 1.2.0")
    assert named("", among) == "1.10.0"
    assert named("^1", among) == "1.10.0"
    assert named("latest", among) == "1.10.0"


def test_1_10_0_is_not_served_as_version_1() -> None:
    assert named("1.10.0", index(released="1.0.0 1.10.0")) == "1.10.0"
    assert refusal("1.0.0", index(released="1.10.0")) == "no version of magika is '1.0.0'; nearest: 1.10.0"


def test_the_empty_selector_and_latest_name_the_highest_released_non_prerelease() -> None:
    among = index(released="1.0.0 3.2.0 3.3.0-rc.1", candidates="3.3.0", yanked="4.0.0")
    assert named("", among) == named("latest", among) == "3.2.0"


@pytest.mark.parametrize("text", ["3.3.0", "v3.3.0", "3.0.0", "2.0.0", "3.3.0-rc.1"])
def test_a_pin_names_a_version_whatever_its_standing(text: str) -> None:
    among = index(released="3.0.0", candidates="3.3.0 3.3.0-rc.1", yanked="2.0.0")
    assert named(text, among) == text.removeprefix("v")


def test_a_pin_without_build_metadata_finds_the_published_build() -> None:
    among = index(released="3.2.0+b5 3.1.0")
    assert named("3.2.0", among) == "3.2.0+b5"
    assert named("3.2.0+b5", among) == "3.2.0+b5"
    assert refusal("3.2.0+other", among) == "no version of magika is '3.2.0+other'; nearest: 3.2.0+b5, 3.1.0"
    assert refusal("3.1.0+b5", among) == "no version of magika is '3.1.0+b5'; nearest: 3.2.0+b5, 3.1.0"


def test_a_digest_names_its_version() -> None:
    among = index(released="3.2.0", candidates="3.3.0")
    assert named(digest_of(Version(3, 3, 0)), among) == "3.3.0"
    unknown = "sha256:" + "f" * 64
    assert refusal(unknown, among) == f"no version of magika has the digest {unknown}; there are: 3.3.0, 3.2.0"


def test_a_tag_names_the_version_that_it_stands_at() -> None:
    among = index(released="3.2.0+b5 1.0.0", candidates="3.3.0", champion="3.3.0", stable="3.2.0")
    assert named("champion", among) == "3.3.0"
    assert named("stable", among) == "3.2.0+b5"


def test_an_unknown_tag_is_not_found_and_the_nearest_named() -> None:
    assert refusal("stabel", index(released="3.2.0", stable="3.2.0", champion="3.2.0")) == (
        "no version of magika is 'stabel'; nearest: stable, ..."
    )


def test_a_tag_that_stands_at_nothing_is_not_found() -> None:
    assert refusal("stable", index(released="3.2.0", stable="3.1.0")) == (
        "the tag 'stable' of magika names 3.1.0, which does not exist"
    )


def test_a_range_names_the_highest_released_version_in_it() -> None:
    among = index(released="1.0.0 3.1.0 3.2.0 4.0.0", candidates="3.3.0")
    assert named("^3", among) == "3.2.0"
    assert named("<3.2", among) == "3.1.0"
    assert named("^1 || ^3", among) == "3.2.0"
    assert named(">=1, <2", among) == "1.0.0"


def test_a_range_never_reaches_a_candidate() -> None:
    assert refusal("^3.3", index(released="3.2.0", candidates="3.3.0 3.3.1")) == (
        "no released version of magika satisfies '^3.3'; 3.3.1 would do, but is a candidate"
    )


def test_a_range_never_reaches_a_yanked_version() -> None:
    assert refusal("^3.3", index(released="3.2.0", yanked="3.3.0")) == (
        "no released version of magika satisfies '^3.3'; 3.3.0 would do, but was yanked"
    )


def test_equality_in_a_range_asks_for_a_released_version_too() -> None:
    among = index(released="3.2.0", candidates="3.3.0")
    assert named("=3.2.0", among) == "3.2.0"
    assert "3.3.0 would do, but is a candidate" in refusal("=3.3.0", among)


def test_a_range_reaches_a_released_prerelease_only_if_it_names_one_of_the_same_core_version() -> None:
    among = index(released="3.2.0 3.3.0-rc.1 3.3.0-rc.10 3.3.0-rc.9")
    assert named("^3", among) == "3.2.0"
    assert named("^3.3.0-rc.1", among) == "3.3.0-rc.10"
    assert named(">=3.2.0-rc.1", among) == "3.2.0"


def test_an_unsatisfied_range_names_the_versions_around_it() -> None:
    among = index(released="1.0.0 1.1.0 1.2.0 3.0.0 3.1.0 3.2.0")
    assert refusal("^2", among) == "no released version of magika satisfies '^2'; nearest: 3.1.0, 3.0.0, 1.2.0, 1.1.0"
    assert refusal("^9", among).endswith("nearest: 3.2.0, 3.1.0")
    assert refusal("<1", among).endswith("nearest: 1.1.0, 1.0.0")


def test_a_model_with_nothing_released_says_so() -> None:
    assert refusal("", index(candidates="3.3.0")) == (
        "magika has no released version other than prereleases; 3.3.0 would do, but is a candidate"
    )
    assert refusal("latest", index(released="3.3.0-rc.1")) == (
        "magika has no released version other than prereleases; nearest: 3.3.0-rc.1"
    )
    assert refusal("", index()) == "magika has no released version other than prereleases; there are no versions"
    assert refusal("*", index()) == "no released version of magika satisfies '*'; there are no versions"


@pytest.mark.parametrize("text", ["", "latest", "^3", ">=3.1"])
def test_a_version_that_is_not_ready_takes_no_traffic_from_the_one_below_it(text: str) -> None:
    among = index(released="3.1.0 3.2.0 3.3.0", ready="3.1.0 3.2.0", coming="3.3.0")
    assert named(text, among) == "3.2.0"
    assert named(text, among, prefer_ready=False) == "3.3.0"


@pytest.mark.parametrize("text", ["", "latest", "^3"])
def test_where_none_is_ready_the_highest_that_is_coming_is_named_and_else_the_highest(text: str) -> None:
    assert named(text, index(released="3.1.0 3.2.0 3.3.0", coming="3.1.0 3.2.0")) == "3.2.0"
    assert named(text, index(released="3.1.0 3.2.0 3.3.0")) == "3.3.0"


def test_pins_digests_and_tags_do_not_move_to_a_version_that_is_ready() -> None:
    among = index(released="3.2.0 3.3.0", ready="3.2.0", stable="3.3.0")
    for text in ("3.3.0", digest_of(Version(3, 3, 0)), "stable"):
        assert named(text, among) == "3.3.0"


def test_a_candidate_that_is_ready_is_no_reason_to_choose_it() -> None:
    assert named("^3", index(released="3.2.0", candidates="3.3.0", ready="3.3.0")) == "3.2.0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "3.2.0"),
        ("^3", "3.2.0"),
        ("3.3.0", "3.3.0"),
        ("champion", "3.3.0"),
        ("^9", None),
        ("nothing", None),
        (digest_of(Version(3, 2, 0)), None),
    ],
)
def test_what_should_be_loaded_is_found_among_what_exists(text: str, expected: str | None) -> None:
    existing: Sequence[Version] = versions("1.0.0 3.2.0 3.3.0")
    model_releases = ModelReleaseState(
        dict.fromkeys(versions("1.0.0 3.2.0"), ReleaseStatus.RELEASED), {"champion": Version(3, 3, 0)}
    )
    found = resolution.named(text, existing, model_releases)
    assert (None if found is None else str(found)) == expected


def test_a_malformed_wish_is_refused_and_not_taken_for_one_that_names_nothing() -> None:
    with pytest.raises(InvalidSelector):
        resolution.named("1.x.2", [], ModelReleaseState())
