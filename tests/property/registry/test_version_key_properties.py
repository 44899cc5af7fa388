"""A version that keeps its key compares, hashes and reads as python-semver's does, whatever it is held against."""

import operator
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semver import Version

from turnout.registry.manifest.versions import IndexedVersion, highest_first, known_version, precedence

NUMBERS = st.integers(0, 3)
WORDS = st.sampled_from(["", "rc", "rc.1", "rc.2", "rc.10", "alpha", "1", "10", "2", "rc-1"])
TEXTS = st.builds(
    lambda a, b, c, pre, build: f"{a}.{b}.{c}" + (f"-{pre}" if pre else "") + (f"+{build}" if build else ""),
    NUMBERS, NUMBERS, NUMBERS, WORDS, st.sampled_from(["", "build.1", "x"]),
)  # fmt: skip


@given(TEXTS, TEXTS)
def test_it_compares_as_python_semver_does(one: str, other: str) -> None:
    plain, indexed = (Version.parse(one), Version.parse(other)), (known_version(one), known_version(other))
    for compare in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge):
        expected = compare(*plain)
        assert compare(*indexed) is expected
        assert compare(plain[0], indexed[1]) is expected
        assert compare(indexed[0], plain[1]) is expected
        assert compare(indexed[0], other) is expected  # python-semver takes text too
    assert hash(indexed[0]) == hash(plain[0])
    assert str(indexed[0]) == one
    assert known_version(one) is indexed[0]


@given(st.lists(TEXTS, max_size=12))
def test_the_highest_comes_first(texts: list[str]) -> None:
    versions = [known_version(text) for text in texts]
    assert list(highest_first(versions)) == sorted(versions, reverse=True)
    assert [precedence(v) for v in highest_first(versions)] == sorted(map(precedence, versions), reverse=True)


@pytest.mark.parametrize("other", [None, 1, 1.5, object(), Exception])
def test_what_is_no_version_is_another_thing_and_has_no_order(other: object) -> None:
    version = known_version("1.2.3")
    assert version != other
    assert not version == other  # noqa: SIM201 - the other operator
    with pytest.raises(TypeError):
        version < other  # type: ignore[operator]  # noqa: B015


def test_it_survives_what_plain_ones_do() -> None:
    version = known_version("1.2.3-rc.1+b")
    assert pickle.loads(pickle.dumps(version)) == version
    assert version.bump_minor() == Version(1, 3, 0)
    assert isinstance(version.replace(patch=4), IndexedVersion)
    assert known_version("1." + "9" * 200 + ".0") > version
    with pytest.raises(ValueError):
        known_version("1.2")
