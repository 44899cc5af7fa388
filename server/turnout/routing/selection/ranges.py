"""Version ranges: npm's grammar, and matching versions against it. Pure.

The grammar is the one at the end of node-semver's README, plus the space that npm allows after an operator, the `v`
that it allows before a number, and Cargo's comma as another way to write "and":

    range-set  ::= set ( ' '* '||' ' '* set )*
    set        ::= partial ' '+ '-' ' '+ partial  |  comparator ( ( ' '+ | ' '* ',' ' '* ) comparator )*
    comparator ::= ( '<' | '<=' | '>' | '>=' | '=' | '^' | '~' )? ' '* partial
    partial    ::= 'v'? xr ( '.' xr ( '.' xr ( '-' prerelease )? ( '+' build )? )? )?
    xr         ::= 'x' | 'X' | '*' | number

Each form is translated to plain comparators, exactly those of node-semver 7 (`^0.2` is `>=0.2.0 <0.3.0-0`). Build
metadata plays no part in precedence and is dropped. Some forms that npm's code accepts although they are ambiguous or
meaningless are refused: an empty alternative (`^1 ||`, which npm reads as `*`), anything definite after a wildcard
(`1.x.2`, or `1.2.x-rc`, whose end npm drops), `~>` (which has another meaning in Ruby), doubled prefixes (`==1`, `^=1`,
`vv1`), and a bare `1.2` or `1.2.3` next to a comma, which Cargo reads as `^` and npm as `=`.

In two cases, npm's README is followed where npm's code takes a shortcut. The code ignores all other alternatives next
to `*`, so that `1.2.3-rc.1` does not satisfy `* || 1.2.3-rc.1`; here, an alternative never takes anything away. The
code also ignores `>=0.0.0` next to other comparators, so that `0.0.0-rc.1` satisfies `>=0.0.0 <=0.0.0-rc.1`; here, it
does not.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from semver import Version

from turnout.registry.manifest.versions import Precedence, precedence

MAX_NUMBER = 2**53 - 1
"""The highest number in a version that JavaScript represents exactly. Higher ones are refused, as in npm."""


class Operator(StrEnum):
    """How a version must compare with a comparator's version."""

    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="
    EQUAL = "="


_HOLDS: Mapping[Operator, Callable[[Any, Any], bool]] = {
    Operator.LESS: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.MORE: operator.gt,
    Operator.AT_LEAST: operator.ge,
    Operator.EQUAL: operator.eq,
}


@dataclass(frozen=True, slots=True)
class Comparator:
    """One bound: an operator and a full version."""

    operator: Operator
    version: Version
    _bound: Precedence = field(init=False, repr=False, compare=False)
    _holds: Callable[[Precedence, Precedence], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_bound", precedence(self.version))
        object.__setattr__(self, "_holds", _HOLDS[self.operator])

    def __str__(self) -> str:
        return f"{self.operator}{self.version}"

    def admits(self, key: Precedence) -> bool:
        """Returns whether a version of that precedence is within this bound."""
        return self._holds(key, self._bound)

    def names_prerelease_of(self, key: Precedence) -> bool:
        """Returns whether the bound is itself a prerelease, of the same core version as `key`."""
        return self._bound[3] == 0 and self._bound[:3] == key[:3]


@dataclass(frozen=True, slots=True)
class Range:
    """A union of comparator sets.

    Attributes:
        alternatives: Sets of comparators. A version satisfies the range if it satisfies one of these sets, and a set if
            it satisfies all its comparators. The empty set is `*`.
        text: The range as written. It does not matter for equality: ranges with equal comparators are equal.
    """

    alternatives: tuple[tuple[Comparator, ...], ...]
    text: str = field(compare=False)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses a range.

        Raises:
            ValueError: The text is not in the grammar. The message says what is wrong, without repeating all of `text`.
        """
        if text != text.strip(" "):
            raise ValueError("it starts or ends with a space")
        sets = (tuple(dict.fromkeys(_comparators(part.strip(" ")))) for part in text.split("||"))
        return cls(tuple(dict.fromkeys(sets)), text)

    def satisfied_by(self, version: Version) -> bool:
        """Returns whether `version` is in the range.

        A prerelease is in it only if a comparator of the same set names a prerelease of the same core version: a client
            that
        writes `^3.3.0-rc.1` asks for prereleases of 3.3.0, but of no other version.
        """
        key = precedence(version)
        for alternative in self.alternatives:
            for comparator in alternative:
                if not comparator.admits(key):
                    break
            else:
                if key[3] == 1 or any(comparator.names_prerelease_of(key) for comparator in alternative):
                    return True
        return False


_IDENTIFIER = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_PARTIAL = re.compile(
    rf"""
    v?(?P<major>[0-9]+|[xX*])
    (?:\.(?P<minor>[0-9]+|[xX*])
      (?:\.(?P<patch>[0-9]+|[xX*])
        (?:-(?P<prerelease>{_IDENTIFIER}(?:\.{_IDENTIFIER})*))?
        (?P<build>\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?
      )?
    )?
    """,
    re.VERBOSE,
)
_HYPHEN = re.compile(r"([^ ]+) +- +([^ ]+)")
_COMPARATOR = re.compile(r"(?P<operator>[<>]=?|[=^~])? *(?P<partial>[^ ,<>=^~|]+)")
_SEPARATOR = re.compile(r" *, *| +")


@dataclass(frozen=True, slots=True)
class _Partial:
    """A version whose end may be open. None means a wildcard, or a part that was left out."""

    major: int | None
    minor: int | None
    patch: int | None
    prerelease: str | None
    ends_early: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        match = _PARTIAL.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a version in full (1.2.3), in part (1.2) or with wildcards (1.x)")
        written = match.group("major", "minor", "patch")
        major, minor, patch = (_number(part) for part in written)
        wildcard = any(part is not None and part in "xX*" for part in written)
        open_end = patch is None and bool(match["prerelease"] or match["build"])
        if (major is None and minor is not None) or (minor is None and patch is not None) or open_end:
            raise ValueError(f"{text!r} goes on after a wildcard")
        return cls(major, minor, patch, match["prerelease"], ends_early=patch is None and not wildcard)

    def lowest(self) -> Version:
        """Returns the lowest version that it covers."""
        return Version(self.major or 0, self.minor or 0, self.patch or 0, self.prerelease)

    def next_major(self) -> Version:
        return Version((self.major or 0) + 1)

    def next_minor(self) -> Version:
        return Version(self.major or 0, (self.minor or 0) + 1)

    def following(self) -> Version:
        """Returns the first version above all that it covers, if its end is open."""
        return self.next_major() if self.minor is None else self.next_minor()

    def first_breaking(self) -> Version:
        """Returns the first version that may be incompatible, in which the left-most non-zero number is increased."""
        if self.major or self.minor is None:
            return self.next_major()
        if self.minor or self.patch is None:
            return self.next_minor()
        return Version(0, 0, self.patch + 1)


def _number(text: str | None) -> int | None:
    if text is None or text in "xX*":
        return None
    if text[0] == "0" and text != "0":
        raise ValueError(f"the number {text!r} starts with a zero")
    if int(text) > MAX_NUMBER:
        raise ValueError(f"the number {text!r} is above {MAX_NUMBER}")
    return int(text)


def _at_least(version: Version) -> Comparator:
    return Comparator(Operator.AT_LEAST, version)


def _below(version: Version) -> Comparator:
    """Returns a bound below the version and all its prereleases, of which `-0` is the lowest."""
    return Comparator(Operator.LESS, Version(version.major, version.minor, version.patch, "0"))


def _comparators(text: str) -> list[Comparator]:
    if not text:
        raise ValueError("an alternative is empty; write * for any version")
    if hyphen := _HYPHEN.fullmatch(text):
        return _between(_Partial.parse(hyphen[1]), _Partial.parse(hyphen[2]))
    comparators: list[Comparator] = []
    position = 0
    while True:
        match = _COMPARATOR.match(text, position)
        if match is None:
            rest = text[position : position + 16]
            raise ValueError(f"expected a version at {repr(rest) if rest else 'the end'}")
        partial = _Partial.parse(match["partial"])
        bare = match["operator"] is None
        if bare and "," in text and partial.minor is not None and (partial.patch is not None or partial.ends_early):
            raise ValueError(
                f"beside a comma {match['partial']!r} is ^{match['partial']} to Cargo and ={match['partial']} to npm; "
                f"write which"
            )
        comparators += _desugared(match["operator"] or "=", partial)
        if match.end() == len(text):
            return comparators
        separator = _SEPARATOR.match(text, match.end())
        if separator is None:
            raise ValueError(f"expected a space or a comma at {text[match.end() : match.end() + 16]!r}")
        position = separator.end()


def _between(first: _Partial, last: _Partial) -> list[Comparator]:
    """Returns the comparators of `first - last`, both inclusive. An open `last` includes all that it covers."""
    comparators = [] if first.major is None else [_at_least(first.lowest())]
    if last.major is None:
        return comparators
    if last.patch is None:
        return [*comparators, _below(last.following())]
    return [*comparators, Comparator(Operator.AT_MOST, last.lowest())]


def _desugared(sign: str, partial: _Partial) -> list[Comparator]:
    """Returns the comparators of `sign` before `partial`. No comparators mean any version."""
    if partial.major is None:
        # No version is above or below every version; npm writes this as <0.0.0-0.
        return [_below(Version(0))] if sign in ("<", ">") else []
    lowest = partial.lowest()
    if sign == "^":
        return [_at_least(lowest), _below(partial.first_breaking())]
    if sign == "~":
        return [_at_least(lowest), _below(partial.following())]
    if partial.patch is not None:
        return [Comparator(Operator(sign), lowest)]
    match Operator(sign):
        case Operator.LESS:
            return [_below(lowest)]
        case Operator.AT_MOST:
            return [_below(partial.following())]
        case Operator.MORE:
            return [_at_least(partial.following())]
        case Operator.AT_LEAST:
            return [_at_least(lowest)]
        case Operator.EQUAL:
            return [_at_least(lowest), _below(partial.following())]
