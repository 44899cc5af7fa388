"""Names that come from outside: checked here before one of them touches a path. Pure."""

import re
from collections.abc import Iterable, Mapping

from semver import Version

from turnout.errors import InvalidRequest

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of models, as Triton, KServe and TensorFlow Serving allow them. None is a path, or a hidden file."""

RESERVED_NAMES = ("gates.toml",)
"""Names of files that lie where the directories of models do; no model takes one, in whatever case."""

MAX_VERSION_LENGTH = 128
"""Characters a version may have. It names a directory, which most file systems hold to 255 bytes."""


def check_model_name(text: str) -> str:
    """Returns `text`, a model's name.

    Raises:
        InvalidRequest: It is not a name that a model may have.
    """
    if fault := model_name_fault(text):
        raise InvalidRequest.at("model", f"{text[:64]!r} {fault}")
    return text


def model_name_fault(text: str) -> str | None:
    """Says why `text` cannot be a model's name, in half a sentence; None if it can."""
    if not MODEL_NAME.fullmatch(text):
        return "is not a model name, expected 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or digit"
    if text.lower() in RESERVED_NAMES:
        return "is not a model name: a file of the repository has it"
    return None


def differing_in_case(names: Iterable[str]) -> Mapping[str, str]:
    """Returns, for each name that differs from another in case only, the one among those alike that is last in order
    of characters, which is that in lower case if there is one; that one itself is left out.

    Two such names are one directory on many file systems, one setting in the environment, and one model to whoever
    types them.
    """
    ordered = sorted(names)
    last = {name.lower(): name for name in ordered}
    return {name: last[name.lower()] for name in ordered if last[name.lower()] != name}


def parse_version(text: str) -> Version:
    """Reads one exact version, such as `3.2.0`, `v3.2.0` or `3.3.0-rc.1+build.5`.

    Raises:
        InvalidRequest: It is not a SemVer 2.0.0 version.
    """
    plain = text.removeprefix("v")
    if len(text) > MAX_VERSION_LENGTH or not is_exact_version(plain):
        raise InvalidRequest.at(
            "version",
            f"{text[:64]!r} is not an exact version, expected MAJOR.MINOR.PATCH as SemVer 2.0.0 has it, such as 3.2.0"
            f" or 3.3.0-rc.1, in {MAX_VERSION_LENGTH} characters at most",
        )
    return Version.parse(plain)


def version_number(name: str) -> int | None:
    """Returns the number that a directory of that name has as a version of Triton's; None if it is not one."""
    # Triton passes over numbers that begin with 0, too.
    if not (name.isascii() and name.isdigit()) or name.startswith("0") or len(name) > 20:
        return None
    return int(name)


def is_exact_version(text: str) -> bool:
    """Says whether `text` is an exact version in its plain form, without a leading `v`."""
    # Releases of python-semver differ on digits outside ASCII and on a trailing newline; SemVer has neither.
    return len(text) <= MAX_VERSION_LENGTH and text.isascii() and text.isprintable() and Version.is_valid(text)
