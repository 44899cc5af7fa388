"""Parses the version field. Pure; `turnout.routing.selection.resolution` resolves the result to a version.

    ""                        Default     the highest released version that is not a prerelease (or the policy's choice)
    3.2.0  v3.2.0             Exact       that version, candidate or not
    sha256:<64 hex digits>    ByDigest    the version with that digest
    latest                    Latest      the highest released version that is not a prerelease, regardless of policies
    stable                    ByTag       the version that the tag refers to
    ^3.2  3.x  >=3.1 <4       InRange     the highest released version in the range (`turnout.routing.selection.ranges`)

Anything else is refused, including spaces around it, `V3`, `03` and `1.2-rc`. A word that looks like a version (`x`,
`v3`, `v03`) is never a tag.
"""

import re
from dataclasses import dataclass

from semver import Version

from turnout.errors import InvalidRequest, InvalidSelector
from turnout.registry.manifest.provenance import DIGEST
from turnout.routing.selection.ranges import MAX_NUMBER, Range

MAX_LENGTH = 256
"""Maximum length of a selector in bytes."""

LATEST = "latest"
"""The only name in the format of a tag that cannot be used as a tag."""

_TAG = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_VERSION_LIKE = re.compile(r"v?(?:x|[0-9]+)")
_EXPECTED = "a version (3.2.0), a range (^3.2, >=3.1 <4), a tag (stable) or sha256: and 64 lower-case hex digits"


@dataclass(frozen=True, slots=True)
class Default:
    """The empty selector."""

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Latest:
    """The highest released version that is not a prerelease."""

    def __str__(self) -> str:
        return LATEST


@dataclass(frozen=True, slots=True, eq=False)
class Exact:
    """One version, regardless of its release status.

    Attributes:
        version: Without build metadata, it names the published version of that precedence, with any build metadata;
            with build metadata, only the version with the same.
    """

    version: Version

    def __str__(self) -> str:
        return str(self.version)

    # Version compares by precedence alone, but 3.2.0+a and 3.2.0+b do not name the same version.
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
    """The version that the tag refers to."""

    name: str

    def __str__(self) -> str:
        return self.name


Selector = Default | Latest | Exact | ByDigest | InRange | ByTag
"""A parsed version field. `parse(str(selector))` returns an equal selector."""


def parse(text: str) -> Selector:
    """Parses a version field.

    Raises:
        InvalidSelector: The text is not a selector. The error says what was expected and what is wrong.
    """
    if not text:
        return Default()
    if len(text) > MAX_LENGTH:
        raise _malformed(text, f"it is longer than {MAX_LENGTH} bytes")
    if not text.isascii():
        raise _malformed(text, "it holds a character that is not ASCII")
    if text.startswith("sha256:"):
        if DIGEST.fullmatch(text) is None:
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
    """Returns `text` if it is valid as the name of a tag.

    Raises:
        InvalidRequest: It is reserved, reads as a version, range or digest, or is not in the format of a tag.
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
        raise InvalidRequest.at("tag", f"{_quoted(text)} reads as a version, a range or a digest, which no tag may")
    raise InvalidRequest.at("tag", f"expected a name of the form {_TAG.pattern}, got {_quoted(text)}")


def _reads_as_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None and _VERSION_LIKE.fullmatch(text) is None


def _exact(text: str) -> Version | None:
    """Returns the full version in `text`; None if it is something else."""
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
