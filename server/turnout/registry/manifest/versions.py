"""Exact versions that compare quickly. Without side effects.

python-semver compares two versions in 3 microseconds and hashes one in 0.6, and a server of thousands of versions does
both all the time: sorting 1,000 of them took 58 ms of the event loop whenever one changed its state.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from semver import Version

Precedence = tuple[int, int, int, int, tuple[tuple[int, int, str], ...]]
"""Sorts as in SemVer 2.0.0 section 11: by core, releases after prereleases, then by the prerelease's identifiers."""

_INTERNED = 65_536
"""Number of versions that are cached by their text: more than a repository contains."""

_MAX_INTERNED_LENGTH = 128
"""Maximum length of a cached text. Longer versions cannot be published."""


class IndexedVersion(Version):
    """A version that caches its sort key and its hash. It is equal to a plain `Version` with the same precedence.

    Attributes:
        key: Precedence, by which it sorts.
    """

    __slots__ = ("_hash", "key")

    def __init__(self, major: Any, minor: Any = 0, patch: Any = 0, prerelease: Any = None, build: Any = None) -> None:
        super().__init__(major, minor, patch, prerelease, build)
        self.key: Precedence = _key(self)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Version):
            return self.key == precedence(other)
        return super().__eq__(other)  # type: ignore[operator]  # NotImplemented for most, which Python turns into False

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __lt__(self, other: Any) -> bool:
        return self.key < precedence(other) if isinstance(other, Version) else super().__lt__(other)

    def __le__(self, other: Any) -> bool:
        return self.key <= precedence(other) if isinstance(other, Version) else super().__le__(other)

    def __gt__(self, other: Any) -> bool:
        return self.key > precedence(other) if isinstance(other, Version) else super().__gt__(other)

    def __ge__(self, other: Any) -> bool:
        return self.key >= precedence(other) if isinstance(other, Version) else super().__ge__(other)


def known_version(text: str) -> Version:
    """Parses a version. Returns the same object each time, so that look-ups are fast.

    Use this for versions from the repository and the state store, but not for those from clients: the result is cached.

    Raises:
        ValueError: The text is not a version.
    """
    return _interned(text) if len(text) <= _MAX_INTERNED_LENGTH else IndexedVersion.parse(text)


@lru_cache(_INTERNED)
def _interned(text: str) -> Version:
    return IndexedVersion.parse(text)


def precedence(version: Version) -> Precedence:
    """Returns the key by which `version` sorts. Versions that differ only in build metadata have the same key.

    The order is that of python-semver, but a comparison takes 0.1 microseconds instead of 3.
    """
    return version.key if isinstance(version, IndexedVersion) else _key(version)


def highest_first(versions: Iterable[Version]) -> Sequence[Version]:
    """Returns `versions` sorted by precedence, highest first."""
    return sorted(versions, key=precedence, reverse=True)


def _key(version: Version) -> Precedence:
    if version.prerelease is None:
        return (version.major, version.minor, version.patch, 1, ())
    # Numbers sort before words, and by length, then digits. This supports numbers of any length without conversion.
    identifiers = tuple(
        (0, len(part), part) if part.isdigit() else (1, 0, part) for part in version.prerelease.split(".")
    )
    return (version.major, version.minor, version.patch, 0, identifiers)
