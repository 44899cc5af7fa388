"""What a client writes in the version field, and which version it names. Pure.

    ""                        Default     the highest released version that is no prerelease (or what a policy says)
    3.2.0  v3.2.0             Exact       that version, candidate or not
    sha256:<64 hex digits>    ByDigest    the version with that digest
    latest                    Latest      the highest released version that is no prerelease, whatever a policy says
    stable                    ByTag       the version that the tag stands at
    ^3.2  3.x  >=3.1 <4       InRange     the highest released version in the range (`turnout.routing.ranges`)

Whatever is none of these is refused: no spaces around it, no `V3`, no `03`, no `1.2-rc`. A word that looks like a
version (`x`, `v3`, `v03`) is never a tag.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Self

from semver import Version

from turnout.errors import InvalidRequest, InvalidSelector, VersionNotFound
from turnout.registry.standing import Standing
from turnout.routing.ranges import MAX_NUMBER, Range, precedence

MAX_LENGTH = 256
"""Bytes that a selector may have."""

LATEST = "latest"
"""The one name that reads as a tag and cannot be given to a version."""

_TAG = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_VERSION_LIKE = re.compile(r"v?(?:x|[0-9]+)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_EXPECTED = "a version (3.2.0), a range (^3.2, >=3.1 <4), a tag (stable) or sha256: and 64 lower-case hex digits"


@dataclass(frozen=True, slots=True)
class Default:
    """Nothing was asked for."""

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Latest:
    """The highest released version that is no prerelease."""

    def __str__(self) -> str:
        return LATEST


@dataclass(frozen=True, slots=True, eq=False)
class Exact:
    """One version, whatever its standing.

    Attributes:
        version: Without build metadata it names the published version of that precedence, whatever the build; with
            build metadata only the version that has the same.
    """

    version: Version

    def __str__(self) -> str:
        return str(self.version)

    # Version compares by precedence alone, and 3.2.0+a does not name what 3.2.0+b names.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exact) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


@dataclass(frozen=True, slots=True)
class ByDigest:
    """The version with that digest, `sha256:` and 64 lower-case hex digits."""

    digest: str

    def __str__(self) -> str:
        return self.digest


@dataclass(frozen=True, slots=True)
class InRange:
    """The highest released version in the range."""

    range: Range

    def __str__(self) -> str:
        return str(self.range)


@dataclass(frozen=True, slots=True)
class ByTag:
    """The version that the tag stands at."""

    name: str

    def __str__(self) -> str:
        return self.name


Selector = Default | Latest | Exact | ByDigest | InRange | ByTag
"""What a version field says. `parse(str(selector))` is the same selector."""


def parse(text: str) -> Selector:
    """Reads a version field.

    Raises:
        InvalidSelector: It is no selector; the error says what was expected and what is wrong.
    """
    if not text:
        return Default()
    if len(text) > MAX_LENGTH:
        raise _malformed(text, f"it is longer than {MAX_LENGTH} bytes")
    if not text.isascii():
        raise _malformed(text, "it holds a character that is not ASCII")
    if text.startswith("sha256:"):
        if _DIGEST.fullmatch(text) is None:
            raise _malformed(text, "that is not a full digest")
        return ByDigest(text)
    if _reads_as_tag(text):
        return Latest() if text == LATEST else ByTag(text)
    try:
        version = _exact(text)
        return InRange(Range.parse(text)) if version is None else Exact(version)
    except ValueError as error:
        raise _malformed(text, str(error)) from None


def tag_name(text: str) -> str:
    """Returns `text` if a tag may be named so.

    Raises:
        InvalidRequest: It is reserved, reads as a version, range or digest, or is not of the form of a tag.
    """
    if text == LATEST:
        raise InvalidRequest.at("tag", f"{LATEST!r} is reserved: it always names the highest released version")
    if _reads_as_tag(text):
        return text
    try:
        selector = parse(text)
    except InvalidSelector:
        selector = Default()
    if not isinstance(selector, Default) or _VERSION_LIKE.fullmatch(text):
        raise InvalidRequest.at("tag", f"{_quoted(text)} reads as a version or a range, which no tag may")
    raise InvalidRequest.at("tag", f"expected a name of the form {_TAG.pattern}, got {_quoted(text)}")


def _reads_as_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None and _VERSION_LIKE.fullmatch(text) is None


def _exact(text: str) -> Version | None:
    """Returns the version that `text` writes out in full, or None where it is something else."""
    try:
        version = Version.parse(text.removeprefix("v"))
    except ValueError:
        return None
    if max(version.major, version.minor, version.patch) > MAX_NUMBER:
        raise ValueError(f"it holds a number above {MAX_NUMBER}")
    return version


def _malformed(text: str, what: str) -> InvalidRequest:
    return InvalidSelector.at("version", f"expected {_EXPECTED}, got {_quoted(text)}: {what}")


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= 64 else f"{text[:64]!r}..."


@dataclass(frozen=True, slots=True)
class VersionIndex:
    """One model's versions, laid out for `resolve`.

    Attributes:
        model: The model's name.
        versions: All of them, the highest precedence first. No two have the same precedence.
        released: Those declared fit for general traffic, in the same order.
        yanked: Those withdrawn.
        tags: Where each tag stands.
        digests: Versions by digest.
        ready: Those that can answer now.
        coming: Those on their way to be ready.
    """

    model: str
    versions: tuple[Version, ...]
    released: tuple[Version, ...]
    yanked: frozenset[Version]
    tags: Mapping[str, Version]
    digests: Mapping[str, Version]
    ready: frozenset[Version]
    coming: frozenset[Version]

    @classmethod
    def of(
        cls,
        model: str,
        standings: Mapping[Version, Standing],
        *,
        tags: Mapping[str, Version] | None = None,
        digests: Mapping[str, Version] | None = None,
        ready: Collection[Version] = (),
        coming: Collection[Version] = (),
    ) -> Self:
        """Makes the index of the versions in `standings`, in whatever order they come."""
        versions = tuple(sorted(standings, key=precedence, reverse=True))
        return cls(
            model=model,
            versions=versions,
            released=tuple(v for v in versions if standings[v] is Standing.RELEASED),
            yanked=frozenset(v for v in versions if standings[v] is Standing.YANKED),
            tags=tags or {},
            digests=digests or {},
            ready=frozenset(ready),
            coming=frozenset(coming),
        )

    def find(self, version: Version) -> Version | None:
        """Returns the published version of the same precedence, with its own build metadata, or None."""
        above = self._above(version)
        found = self.versions[above] if above < len(self.versions) else None
        return found if found is not None and precedence(found) == precedence(version) else None

    def around(self, version: Version) -> tuple[Version, ...]:
        """Returns the two versions next above `version` and the two next at or below it, fewer at the ends."""
        above = self._above(version)
        return self.versions[max(0, above - 2) : above + 2]

    def _above(self, version: Version) -> int:
        """How many versions are higher."""
        return len(self.versions) - bisect_right(self.versions[::-1], precedence(version), key=precedence)


def resolve(selector: Selector, versions: VersionIndex, *, prefer_ready: bool = True) -> Version:
    """Returns the version that `selector` names.

    A pin, a digest and a tag name one version. A range, `latest` and the empty selector choose among released versions:
    the highest that is ready, so that one still loading takes no traffic from the one below it; where none is, the
    highest that is coming; where none is either, the highest. With `prefer_ready=False` it is the highest in any case.

    Raises:
        VersionNotFound: There is no such version; the error names the nearest.
    """
    match selector:
        case Default() | Latest():
            return _choose(selector, versions, lambda version: version.prerelease is None, prefer_ready=prefer_ready)
        case InRange(range=wanted):
            return _choose(selector, versions, wanted.satisfied_by, prefer_ready=prefer_ready)
        case Exact(version=pinned):
            found = versions.find(pinned)
            if found is None or pinned.build not in (None, found.build):
                raise VersionNotFound(
                    f"no version of {versions.model} is {str(pinned)!r}; {_listed('nearest', versions.around(pinned))}"
                )
            return found
        case ByDigest(digest=digest):
            found = versions.digests.get(digest)
            if found is None:
                raise VersionNotFound(
                    f"no version of {versions.model} has the digest {digest}; {_listed('there are', versions.versions)}"
                )
            return found
        case ByTag(name=name):
            target = versions.tags.get(name)
            if target is None:
                known = [*versions.tags, *map(str, versions.versions)]
                raise VersionNotFound.of(versions.model, name, known)
            found = versions.find(target)
            if found is None:
                raise VersionNotFound(f"the tag {name!r} of {versions.model} stands at {target}, which is not there")
            return found


def _choose(
    selector: Default | Latest | InRange,
    versions: VersionIndex,
    fits: Callable[[Version], bool],
    *,
    prefer_ready: bool,
) -> Version:
    highest: Version | None = None
    coming: Version | None = None
    for version in versions.released:
        if not fits(version):
            continue
        if not prefer_ready or version in versions.ready:
            return version
        if highest is None:
            highest = version
        if coming is None and version in versions.coming:
            coming = version
    if highest is None:
        raise _nothing_released(selector, versions, fits)
    return coming or highest


def _nothing_released(
    selector: Default | Latest | InRange, versions: VersionIndex, fits: Callable[[Version], bool]
) -> VersionNotFound:
    """Says that no released version fits, and which other would fit or comes near."""
    near: Collection[Version] = versions.versions
    if isinstance(selector, InRange):
        wanted = f"no released version of {versions.model} satisfies {str(selector)!r}"
        bounds = [comparator.version for alternative in selector.range.alternatives for comparator in alternative]
        if bounds:
            near = versions.around(bounds[0])
    else:
        wanted = f"{versions.model} has no released version other than prereleases"
    fitting = [version for version in versions.versions if fits(version)]
    candidate = next((version for version in fitting if version not in versions.yanked), None)
    if candidate is not None:
        return VersionNotFound(f"{wanted}; {candidate} would do, but is a candidate")
    if fitting:
        return VersionNotFound(f"{wanted}; {fitting[0]} would do, but was yanked")
    return VersionNotFound(f"{wanted}; {_listed('nearest', near)}")


def _listed(noun: str, versions: Collection[Version]) -> str:
    if not versions:
        return "there are no versions"
    return f"{noun}: {', '.join(str(version) for version in list(versions)[:4])}{', ...' if len(versions) > 4 else ''}"
