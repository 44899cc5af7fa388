"""Version ranges: npm's grammar, and which versions satisfy it. Pure.

The grammar is the one at the end of node-semver's README, with the space that npm allows after an operator, the `v`
that it allows before a number, and Cargo's comma as another word for "and":

    range-set  ::= set ( ' '* '||' ' '* set )*
    set        ::= partial ' '+ '-' ' '+ partial  |  comparator ( ( ' '+ | ' '* ',' ' '* ) comparator )*
    comparator ::= ( '<' | '<=' | '>' | '>=' | '=' | '^' | '~' )? ' '* partial
    partial    ::= 'v'? xr ( '.' xr ( '.' xr ( '-' prerelease )? ( '+' build )? )? )?
    xr         ::= 'x' | 'X' | '*' | number

Each form stands for plain comparators, exactly those that node-semver 7 makes of it (`^0.2` is `>=0.2.0 <0.3.0-0`);
build metadata plays no part in precedence and is dropped. What npm's code lets pass although it says two things, or
nothing, is refused: an empty alternative (`^1 ||`, to npm `*`), anything definite after a wildcard (`1.x.2`, or
`1.2.x-rc`, whose end npm drops), `~>` (Ruby means something else by it), doubled prefixes (`==1`, `^=1`, `vv1`), and
beside a comma a bare `1.2` or `1.2.3`, which Cargo reads as `^` and npm as `=`.

Twice npm's README decides against a shortcut of npm's code: the code forgets all other alternatives beside `*`, so that
`* || 1.2.3-rc.1` is not satisfied by `1.2.3-rc.1`, where here an alternative never takes anything away; and it forgets
`>=0.0.0` beside other comparators, so that `0.0.0-rc.1` satisfies `>=0.0.0 <=0.0.0-rc.1`, where here it does not.
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
"""The highest number in a version that npm can tell from its neighbours; higher ones are refused, as npm does."""


class Operator(StrEnum):
    """How a version must compare with a comparator's."""

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
        """Whether a version of that precedence lies within this bound."""
        return self._holds(key, self._bound)

    def names_prerelease_of(self, key: Precedence) -> bool:
        """Whether the bound is itself a prerelease, of the same core version as `key`."""
        return self._bound[3] == 0 and self._bound[:3] == key[:3]


@dataclass(frozen=True, slots=True)
class Range:
    """A union of comparator sets.

    Attributes:
        alternatives: A version satisfies the range if it satisfies one of these sets, and a set if it lies within all
            its comparators. The empty set is `*`.
        text: The range as written. Two ranges are equal whose comparators are, however they were written.
    """

    alternatives: tuple[tuple[Comparator, ...], ...]
    text: str = field(compare=False)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a range.

        Raises:
            ValueError: It is not in the grammar; the message says what is wrong, without repeating all of `text`.
        """
        if text != text.strip(" "):
            raise ValueError("it starts or ends with a space")
        sets = (tuple(dict.fromkeys(_comparators(part.strip(" ")))) for part in text.split("||"))
        return cls(tuple(dict.fromkeys(sets)), text)

    def satisfied_by(self, version: Version) -> bool:
        """Whether `version` lies in the range.

        A prerelease does so only if a comparator of the same set names a prerelease of the same core version: who
        writes `^3.3.0-rc.1` asked for prereleases of 3.3.0, and for no other's.
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
    """A version of which the end may be open: None stands for a wildcard, and for what was left out."""

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
        """The lowest version it covers."""
        return Version(self.major or 0, self.minor or 0, self.patch or 0, self.prerelease)

    def next_major(self) -> Version:
        return Version((self.major or 0) + 1)

    def next_minor(self) -> Version:
        return Version(self.major or 0, (self.minor or 0) + 1)

    def following(self) -> Version:
        """The first version past all that it covers, if it is open."""
        return self.next_major() if self.minor is None else self.next_minor()

    def first_breaking(self) -> Version:
        """The first version that may break what this one promises: the left-most number that is not zero grows."""
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
    """Below the version and all its prereleases: `-0` is the lowest of them."""
    return Comparator(Operator.LESS, Version(version.major, version.minor, version.patch, "0"))


def _comparators(text: str) -> list[Comparator]:
    """Returns the comparators that one alternative stands for."""
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
    """`first - last`, both inclusive; of an open `last`, all that it covers."""
    comparators = [] if first.major is None else [_at_least(first.lowest())]
    if last.major is None:
        return comparators
    if last.patch is None:
        return [*comparators, _below(last.following())]
    return [*comparators, Comparator(Operator.AT_MOST, last.lowest())]


def _desugared(sign: str, partial: _Partial) -> list[Comparator]:
    """Returns what `sign` before `partial` stands for; no comparators mean any version."""
    if partial.major is None:
        # Nothing is above or below every version, and <0.0.0-0 is npm's way to say so.
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
