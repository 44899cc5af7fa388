"""Which number a change may go by."""

import pytest
from semver import Version

from turnout.registry.compatibility.compat import VersionBump
from turnout.registry.compatibility.numbering import above, automatic, bump_between, bumped, nearest_lower, next_version

V = Version.parse


def versions(*texts: str) -> list[Version]:
    return [V(text) for text in texts]


@pytest.mark.parametrize(
    ("version", "published", "lower"),
    [
        ("3.3.0", ["1.0.0", "3.2.0", "3.4.0"], "3.2.0"),
        ("1.4.3", ["1.4.2", "1.5.0", "3.0.0"], "1.4.2"),
        ("1.10.0", ["1.9.0", "1.2.0"], "1.9.0"),
        ("3.3.0", ["3.2.0", "3.3.0-rc.1", "3.3.0-rc.2"], "3.2.0"),
        ("3.3.0-rc.2", ["3.2.0", "3.3.0-rc.1"], "3.2.0"),
        ("3.3.1", ["3.2.0", "3.3.0-rc.1"], "3.3.0-rc.1"),
        ("1.0.0", ["1.0.0-rc.1"], None),
        ("1.0.0", ["2.0.0"], None),
        ("1.0.0", [], None),
    ],
)
def test_a_version_is_held_against_the_nearest_lower_one(version: str, published: list[str], lower: str | None) -> None:
    assert nearest_lower(V(version), versions(*published)) == (None if lower is None else V(lower))


@pytest.mark.parametrize(
    ("lower", "higher", "allowed"),
    [
        ("1.2.3", "1.2.4", VersionBump.PATCH),
        ("1.2.3", "1.3.0", VersionBump.MINOR),
        ("1.2.3", "2.0.0", VersionBump.MAJOR),
        ("1.2.3", "2.0.0-rc.1", VersionBump.MAJOR),
        ("1.2.3", "1.2.4-rc.1", VersionBump.PATCH),
        ("1.2.4-rc.1", "1.2.4", VersionBump.MAJOR),
        ("1.2.4-rc.1", "1.2.4-rc.2", VersionBump.MAJOR),
        ("0.2.3", "0.2.4", VersionBump.MINOR),
        ("0.2.3", "0.3.0", VersionBump.MAJOR),
        ("0.0.3", "0.0.4", VersionBump.MAJOR),
        ("0.9.0", "1.0.0", VersionBump.MAJOR),
    ],
)
def test_a_number_allows_what_ranges_take_it_for(lower: str, higher: str, allowed: VersionBump) -> None:
    assert bump_between(V(lower), V(higher)) is allowed


@pytest.mark.parametrize(
    ("lower", "bump", "right"),
    [
        ("1.2.3", VersionBump.PATCH, "1.2.4"),
        ("1.2.3", VersionBump.MINOR, "1.3.0"),
        ("1.2.3", VersionBump.MAJOR, "2.0.0"),
        ("0.2.3", VersionBump.PATCH, "0.2.4"),
        ("0.2.3", VersionBump.MINOR, "0.2.4"),
        ("0.2.3", VersionBump.MAJOR, "0.3.0"),
        ("0.0.3", VersionBump.MAJOR, "0.0.4"),
    ],
)
def test_below_1_0_0_everything_moves_one_place_to_the_right(lower: str, bump: VersionBump, right: str) -> None:
    assert bumped(V(lower), bump) == V(right)


def test_the_version_proposed_is_free() -> None:
    assert next_version(V("1.2.0"), VersionBump.MINOR, versions("1.2.0", "1.3.0", "2.0.0")) == V("1.4.0")


@pytest.mark.parametrize(
    ("bump", "held_against", "taken", "chosen"),
    [
        (VersionBump.PATCH, None, [], "1.0.0"),
        (VersionBump.MAJOR, "1.4.2", ["1.4.2", "1.0.0"], "2.0.0"),
        (VersionBump.MINOR, "1.4.2", ["1.4.2", "1.5.0"], "1.6.0"),
        (VersionBump.MINOR, "3.2.0", ["3.2.0", "3.3.0-rc.1"], "3.3.0"),
        (VersionBump.MAJOR, "3.2.0", ["3.2.0", "3.3.0-rc.1"], "4.0.0"),
        (VersionBump.PATCH, "3.2.0", ["3.2.0", "3.3.0-rc.1"], "3.3.0"),
        (VersionBump.PATCH, None, ["2.0.0-rc.1"], "2.0.0"),
    ],
)
def test_auto_goes_above_every_number_that_was_ever_used(
    bump: VersionBump, held_against: str | None, taken: list[str], chosen: str
) -> None:
    parent = None if held_against is None else V(held_against)
    assert automatic(bump, parent, versions(*taken)) == V(chosen)


def test_the_place_above_all_is_held_against_the_highest() -> None:
    assert nearest_lower(above(versions("1.0.0", "3.2.0")), versions("1.0.0", "3.2.0")) == V("3.2.0")
    published = versions("3.2.0", "3.3.0-rc.1")
    assert nearest_lower(above(published), published) == V("3.2.0")
