"""Ranges mean what npm documents: its README's examples, and its own code's answers to a few hundred more."""

import json
from pathlib import Path
from typing import Any

import pytest
from semver import Version

from turnout.routing.selection.ranges import Range

CASES = Path(__file__).parents[2] / "support" / "data" / "node_semver_cases.json"
NODE_SEMVER: dict[str, Any] = json.loads(CASES.read_text())
VERSIONS = {text: Version.parse(text) for text in NODE_SEMVER["versions"]}


def comparators(text: str) -> str:
    alternatives = Range.parse(text).alternatives
    return " || ".join(" ".join(str(comparator) for comparator in alternative) for alternative in alternatives)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        # README, "Hyphen Ranges"
        ("1.2.3 - 2.3.4", ">=1.2.3 <=2.3.4"),
        ("1.2 - 2.3.4", ">=1.2.0 <=2.3.4"),
        ("1.2.3 - 2.3", ">=1.2.3 <2.4.0-0"),
        ("1.2.3 - 2", ">=1.2.3 <3.0.0-0"),
        # README, "X-Ranges"
        ("*", ""),
        ("1.x", ">=1.0.0 <2.0.0-0"),
        ("1.X", ">=1.0.0 <2.0.0-0"),
        ("1.2.x", ">=1.2.0 <1.3.0-0"),
        ("1.2.*", ">=1.2.0 <1.3.0-0"),
        ("1", ">=1.0.0 <2.0.0-0"),
        ("1.x.x", ">=1.0.0 <2.0.0-0"),
        ("1.2", ">=1.2.0 <1.3.0-0"),
        # README, "Tilde Ranges"
        ("~1.2.3", ">=1.2.3 <1.3.0-0"),
        ("~1.2", ">=1.2.0 <1.3.0-0"),
        ("~1", ">=1.0.0 <2.0.0-0"),
        ("~0.2.3", ">=0.2.3 <0.3.0-0"),
        ("~0.2", ">=0.2.0 <0.3.0-0"),
        ("~0", ">=0.0.0 <1.0.0-0"),
        ("~1.2.3-beta.2", ">=1.2.3-beta.2 <1.3.0-0"),
        # README, "Caret Ranges"
        ("^1.2.3", ">=1.2.3 <2.0.0-0"),
        ("^0.2.3", ">=0.2.3 <0.3.0-0"),
        ("^0.0.3", ">=0.0.3 <0.0.4-0"),
        ("^1.2.3-beta.2", ">=1.2.3-beta.2 <2.0.0-0"),
        ("^0.0.3-beta", ">=0.0.3-beta <0.0.4-0"),
        ("^1.2.x", ">=1.2.0 <2.0.0-0"),
        ("^0.0.x", ">=0.0.0 <0.1.0-0"),
        ("^0.0", ">=0.0.0 <0.1.0-0"),
        ("^1.x", ">=1.0.0 <2.0.0-0"),
        ("^0.x", ">=0.0.0 <1.0.0-0"),
        # README, "Ranges", and the comments of classes/range.js
        (">1", ">=2.0.0"),
        (">1.2", ">=1.3.0"),
        ("<=0.7.x", "<0.8.0-0"),
        ("<=7.x", "<8.0.0-0"),
        ("<1.2", "<1.2.0-0"),
        (">=1.x", ">=1.0.0"),
        ("=1.2", ">=1.2.0 <1.3.0-0"),
        ("=1.2.3", "=1.2.3"),
        (">*", "<0.0.0-0"),
        ("<x", "<0.0.0-0"),
        (">=*", ""),
        ("^*", ""),
        ("~x", ""),
        ("1.2.3 - *", ">=1.2.3"),
        ("x - 1.2", "<1.3.0-0"),
        ("1.2.7 || >=1.2.9 <2.0.0", "=1.2.7 || >=1.2.9 <2.0.0"),
        # the release candidate of a bound, and build metadata
        ("1.2.3-rc.1 - 2.0.0-rc.2", ">=1.2.3-rc.1 <=2.0.0-rc.2"),
        (">=1.2.3+b5 <2.0.0+b6", ">=1.2.3 <2.0.0"),
        ("^v1", ">=1.0.0 <2.0.0-0"),
        (">= 1  <  2", ">=1.0.0 <2.0.0-0"),
        # Cargo's comma
        (">=1.2, <1.5", ">=1.2.0 <1.5.0-0"),
        ("1, <1.5.2", ">=1.0.0 <2.0.0-0 <1.5.2"),
        ("1.*,>1.2 || =3.0.0", ">=1.0.0 <2.0.0-0 >=1.3.0 || =3.0.0"),
        # what says the same twice is kept once
        ("^1 ^1 || 1.x", ">=1.0.0 <2.0.0-0"),
    ],
)
def test_each_form_stands_for_the_comparators_that_npm_documents(written: str, meant: str) -> None:
    assert comparators(written) == meant


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        # README, "Ranges"
        (">=1.2.7", "1.2.7 1.2.8 2.5.3 1.3.9", "1.2.6 1.1.0"),
        (">1", "2.0.0 3.1.0", "1.0.1 1.1.0"),
        (">=1.2.7 <1.3.0", "1.2.7 1.2.8 1.2.99", "1.2.6 1.3.0 1.1.0"),
        ("1.2.7 || >=1.2.9 <2.0.0", "1.2.7 1.2.9 1.4.6", "1.2.8 2.0.0"),
        # README, "Prerelease Tags"
        (">1.2.3-alpha.3", "1.2.3-alpha.7 3.4.5", "3.4.5-alpha.9"),
        ("~1.2.3-beta.2", "1.2.3-beta.4", "1.2.4-beta.2"),
        ("^1.2.3-beta.2", "1.2.3-beta.4", "1.2.4-beta.2"),
        ("^0.0.3-beta", "0.0.3-pr.2", "0.0.3-alpha 0.0.4-pr.2"),
        ("*", "0.0.0 1.10.0", "1.0.0-rc.1"),
        # an upper bound shuts out the prereleases of the version that it stops before
        ("^1", "1.9.9", "2.0.0-rc.1 2.0.0"),
        ("<2", "1.9.9", "2.0.0-rc.1 1.9.9-rc.1"),
        ("<2.0.0", "1.9.9", "2.0.0-rc.1"),
        ("<=2.0.0-rc.2", "1.9.9 2.0.0-rc.1 2.0.0-rc.2", "2.0.0-rc.3 2.0.0 1.9.9-rc.1"),
        # the rule holds within one set: the other alternative's prerelease does not count
        ("^2.0.0 || =1.2.3-rc.1", "2.1.0 1.2.3-rc.1", "2.1.0-rc.1 1.2.3-rc.2"),
        # numbers are numbers
        (">1.9", "1.10.0", "1.9.0"),
        ("^1.2.3-rc.2", "1.2.3-rc.10", "1.2.3-rc.1"),
        # build metadata plays no part
        ("=1.2.3", "1.2.3+b5", "1.2.4+b5"),
        ("=1.2.3+b1", "1.2.3+b2 1.2.3", ""),
        ("2 - 1", "", "1.0.0 1.5.0 2.0.0"),
        # where npm's README decides against its code
        ("* || 1.2.3-rc.1", "1.2.3-rc.1 9.0.0", "1.2.3-rc.2"),
        (">=0.0.0 <=0.0.0-rc.1", "", "0.0.0-rc.1 0.0.0-rc.0 0.0.0"),
    ],
)
def test_what_lies_in_a_range(text: str, inside: str, outside: str) -> None:
    wanted = Range.parse(text)
    assert [v for v in inside.split() if not wanted.satisfied_by(Version.parse(v))] == []
    assert [v for v in outside.split() if wanted.satisfied_by(Version.parse(v))] == []


@pytest.mark.parametrize("case", NODE_SEMVER["cases"], ids=lambda case: str(case["range"]))
def test_the_same_versions_satisfy_a_range_as_in_npms_own_code(case: dict[str, Any]) -> None:
    wanted = Range.parse(case["range"])
    assert [text for text, version in VERSIONS.items() if wanted.satisfied_by(version)] == case["satisfied_by"]


@pytest.mark.parametrize("text", NODE_SEMVER["refused"])
def test_what_npms_own_code_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Range.parse(text)
