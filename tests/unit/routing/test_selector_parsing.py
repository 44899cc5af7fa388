"""What a version field may say, and what is refused."""

import pytest
from semver import Version

from turnout.errors import InvalidRequest, InvalidSelector
from turnout.routing.selection.ranges import Range
from turnout.routing.selection.selector import (
    ByDigest,
    ByTag,
    Default,
    Exact,
    InRange,
    Latest,
    Selector,
    parse,
    tag_name,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4


def exact(text: str) -> Exact:
    return Exact(Version.parse(text))


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("", Default()),
        ("3.2.0", exact("3.2.0")),
        ("v3.2.0", exact("3.2.0")),
        ("1.10.0", exact("1.10.0")),
        ("3.3.0-rc.1", exact("3.3.0-rc.1")),
        ("3.3.0-rc.1+b5", exact("3.3.0-rc.1+b5")),
        ("9007199254740991.0.0", exact("9007199254740991.0.0")),
        (DIGEST, ByDigest(DIGEST)),
        ("latest", Latest()),
        ("stable", ByTag("stable")),
        ("champion_2-b", ByTag("champion_2-b")),
        ("v3-final", ByTag("v3-final")),
        ("vv3", ByTag("vv3")),
        ("xl", ByTag("xl")),
        ("sha256", ByTag("sha256")),
        ("a" * 63, ByTag("a" * 63)),
    ],
)
def test_each_form_is_read_as_what_it_says(text: str, selector: Selector) -> None:
    assert parse(text) == selector


@pytest.mark.parametrize(
    "text",
    [
        *("3", "v3", "3.2", "v3.2", "x", "X", "vx", "*", "3.x", "3.2.*", "^3.2", "^v3", "~3.2.1", ">=3.1 <4", ">= 3.1"),
        *(
            "=3.2.0",
            "=v3.2.0",
            ">1",
            "<=2.x",
            "1.2 - 2.3.4",
            "^1 || ^3",
            "^1||^3",
            ">=1, <2",
            ">=1,<2",
            "3.2.0 || 3.3.0",
        ),
        *("^3.3.0-rc.1", ">=3.3.0+b5", "1, <2", "1.x, 1.2.*", ">*"),
    ],
)
def test_ranges_of_npm_and_cargo_are_ranges(text: str) -> None:
    assert parse(text) == InRange(Range.parse(text))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("03.2.0", "'03' starts with a zero"),
        ("^1.02", "'02' starts with a zero"),
        ("v03", "'03' starts with a zero"),
        ("1.2.3-01", "is not a version"),
        ("1.2-beta", "is not a version"),
        ("1.2.3-", "is not a version"),
        ("1.2.3-a..b", "is not a version"),
        ("1.2.3+", "is not a version"),
        ("1.2+b5", "is not a version"),
        ("1.2.3.4", "is not a version"),
        ("1.", "is not a version"),
        (".1", "is not a version"),
        ("-1.0.0", "is not a version"),
        ("3.2.0\n", "is not a version"),
        ("3.2.0\t", "is not a version"),
        ("V3", "is not a version"),
        ("vv3.1", "is not a version"),
        ("v 3", "is not a version"),
        ("Stable", "is not a version"),
        ("_stable", "is not a version"),
        ("a" * 64, "is not a version"),
        ("1.x.2", "goes on after a wildcard"),
        ("x.1", "goes on after a wildcard"),
        ("^*.1", "goes on after a wildcard"),
        ("1.2.x-rc", "goes on after a wildcard"),
        ("1.2.*+b5", "goes on after a wildcard"),
        ("9007199254740992.0.0", "above 9007199254740991"),
        ("^9007199254740992", "above 9007199254740991"),
        ("1" * 250, "above 9007199254740991"),
        ("||", "an alternative is empty"),
        ("^1 ||", "an alternative is empty"),
        ("|| ^1", "an alternative is empty"),
        ("^1 || || ^2", "an alternative is empty"),
        ("1 | 2", "expected a version at '| 2'"),
        (" 3.2.0", "starts or ends with a space"),
        ("3.2.0 ", "starts or ends with a space"),
        (" ", "starts or ends with a space"),
        (">=", "expected a version at '>='"),
        ("^", "expected a version at '^'"),
        (",", "expected a version at ','"),
        (">=1,", "expected a version at the end"),
        (">=1,,<2", "expected a version at ',<2'"),
        ("==1", "expected a version at '==1'"),
        ("=>1", "expected a version at '=>1'"),
        ("> =1", "expected a version at '> =1'"),
        ("~>1.2", "expected a version at '~>1.2'"),
        ("^=1", "expected a version at '^=1'"),
        ("^^1", "expected a version at '^^1'"),
        ("!=1", "is not a version"),
        (">=1<2", "expected a space or a comma at '<2'"),
        ("1.2 -2", "is not a version"),
        ("1 - 2 - 3", "is not a version"),
        ("1 - 2 <3", "is not a version"),
        (">=1 - 2", "is not a version"),
        ("1 - 2, <3", "is not a version"),
        ("1.2.3, <2", "beside a comma '1.2.3' is ^1.2.3 to Cargo and =1.2.3 to npm"),
        ("<2, 1.2", "beside a comma '1.2' is ^1.2 to Cargo and =1.2 to npm"),
        ("sha256:", "not a full digest"),
        ("sha256:abc", "not a full digest"),
        (DIGEST.upper().replace("SHA", "sha"), "not a full digest"),
        (DIGEST + "0", "not a full digest"),
        ("٣.2.0", "not ASCII"),
        ("^3.2\u00a0", "not ASCII"),
        ("\ud800", "not ASCII"),
        ("1" + " || 1" * 60, "longer than 256 bytes"),
        ("3.2.0\0", "is not a version"),
        ("latest@3", "is not a version"),
        ("../3.2.0", "is not a version"),
    ],
)
def test_what_is_malformed_is_refused_saying_what_was_expected(text: str, why: str) -> None:
    with pytest.raises(InvalidSelector) as caught:
        parse(text)
    error = caught.value
    assert [violation.field for violation in error.violations] == ["version"]
    assert "expected a version (3.2.0), a range (^3.2, >=3.1 <4), a tag (stable) or sha256:" in error.message
    assert why in error.message


def test_a_refusal_repeats_little_of_what_came() -> None:
    with pytest.raises(InvalidSelector) as caught:
        parse("%" * 1_000_000)
    assert len(caught.value.message) < 400


def test_256_bytes_are_not_too_many() -> None:
    text = "1.0.0-" + "a" * 250
    assert parse(text) == exact(text)


def test_exact_versions_that_differ_in_build_metadata_are_different_selectors() -> None:
    assert parse("3.2.0+a") != parse("3.2.0+b")
    assert len({parse("3.2.0+a"), parse("3.2.0+b"), parse("v3.2.0+a")}) == 2


def test_ranges_are_equal_when_their_comparators_are() -> None:
    assert parse("^3") == parse("3.x") == parse(">=3.0.0 <4.0.0-0") == parse("3 || v3.*")
    assert parse("^3") != parse("^3.0.1")
    assert str(parse("3.x")) == "3.x"


@pytest.mark.parametrize("name", ["stable", "champion", "a", "x1", "v3-final", "prod_eu-1", "z" * 63])
def test_a_word_can_be_a_tag(name: str) -> None:
    assert tag_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("latest", "'latest' is reserved"),
        ("x", "'x' reads as a version, a range or a digest"),
        ("v3", "'v3' reads as a version, a range or a digest"),
        ("v03", "'v03' reads as a version, a range or a digest"),
        ("vx", "'vx' reads as a version, a range or a digest"),
        ("3", "'3' reads as a version, a range or a digest"),
        ("3.2.0", "'3.2.0' reads as a version, a range or a digest"),
        ("^3", "'^3' reads as a version, a range or a digest"),
        ("*", "'*' reads as a version, a range or a digest"),
        ("", "expected a name of the form [a-z][a-z0-9_-]{0,62}, got ''"),
        ("Stable", "expected a name of the form"),
        ("-a", "expected a name of the form"),
        ("a b", "expected a name of the form"),
        ("a\n", "expected a name of the form"),
        ("sta.ble", "expected a name of the form"),
        ("é", "expected a name of the form"),
        ("a" * 64, "expected a name of the form"),
    ],
)
def test_a_tag_never_reads_as_something_else(name: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tag_name(name)
    assert [violation.field for violation in caught.value.violations] == ["tag"]
    assert why in caught.value.message


def test_a_digest_is_no_tag() -> None:
    with pytest.raises(InvalidRequest, match="reads as a version, a range or a digest"):
        tag_name(DIGEST)
