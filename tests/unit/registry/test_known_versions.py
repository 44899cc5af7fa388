"""Versions that compare quickly are equal to what plain ones are equal to, and to nothing else."""

import pytest
from semver import Version

from turnout.registry.manifest.versions import highest_first, known_version


@pytest.mark.parametrize("other", [None, 7, object(), frozenset({"1.0.0"})])
def test_a_version_differs_from_what_is_none(other: object) -> None:
    """Baselines, tags and statuses are compared with nothing at all, too: no error, and no equality."""
    version = known_version("1.0.0")
    assert version != other
    assert other != version
    assert not version == other  # noqa: SIM201 - each operator has code of its own


def test_it_equals_a_plain_version_both_ways_and_is_found_by_it() -> None:
    known, plain = known_version("1.0.0-rc.1"), Version.parse("1.0.0-rc.1")
    assert known == plain
    assert plain == known
    assert {known: True}[plain]
    assert {plain: True}[known]
    assert known_version("1.0.0") not in {plain}


def test_the_highest_stands_first() -> None:
    texts = ["1.9.0", "1.10.0", "1.10.0-rc.1", "2.0.0-alpha"]
    assert [str(v) for v in highest_first(map(known_version, texts))] == [
        "2.0.0-alpha",
        "1.10.0",
        "1.10.0-rc.1",
        "1.9.0",
    ]
