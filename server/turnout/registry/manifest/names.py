"""Names of models, versions and files: checks those that come from outside. Without side effects."""

import re
from collections.abc import Iterable, Mapping

from semver import Version

from turnout.errors import InvalidRequest

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Valid names of models, as in Triton, KServe and TensorFlow Serving. None can leave its directory or be hidden."""

ATTESTATIONS = ".attestations"
"""Directory in a model's with the records beside its versions."""

PLAN_FILE = "gates.toml"
"""Options of the gates, in the directory that contains the models or in a model's. No model may have this name, in any
case."""

MAX_VERSION_LENGTH = 128
"""Maximum length of a version in characters. It names a directory, for which most file systems allow 255 bytes."""


def check_model_name(text: str) -> str:
    """Checks the name of a model, and returns it. Raises InvalidRequest if the name is not a valid model name."""
    if fault := model_name_fault(text):
        raise InvalidRequest.at("model", f"{text[:64]!r} {fault}")
    return text


def model_name_fault(text: str) -> str | None:
    """Returns why `text` is not a valid model name, as a phrase that follows it; None if it is valid."""
    if not MODEL_NAME.fullmatch(text):
        return "is not a model name, expected 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or digit"
    if text.lower() == PLAN_FILE:
        return "is not a model name: a file of the repository has this name"
    return None


def differing_in_case(names: Iterable[str]) -> Mapping[str, str]:
    """Finds names that differ only in case. Returns, for each of them, the one that should be kept.

    Among names that are equal except for case, the last in code point order is kept, which is the lower-case one if
    there is one. The kept name itself is not in the result. Such names are the same directory on many file systems, the
    same setting in the environment, and the same model to people who type them.
    """
    ordered = sorted(names)
    last = {name.lower(): name for name in ordered}
    return {name: last[name.lower()] for name in ordered if last[name.lower()] != name}


def parse_version(text: str) -> Version:
    """Parses an exact version, such as `3.2.0`, `v3.2.0` or `3.3.0-rc.1+build.5`.

    Raises:
        InvalidRequest: The text is not a SemVer 2.0.0 version.
    """
    plain = text.removeprefix("v")
    if len(text) > MAX_VERSION_LENGTH or not is_exact_version(plain):
        raise InvalidRequest.at(
            "version",
            f"{text[:64]!r} is not an exact version, expected MAJOR.MINOR.PATCH as in SemVer 2.0.0, such as 3.2.0 or"
            f" 3.3.0-rc.1, with at most {MAX_VERSION_LENGTH} characters",
        )
    return Version.parse(plain)


def version_number(name: str) -> int | None:
    """Returns the number of a Triton version from the name of its directory; None if the name is not a number."""
    # Triton also skips numbers with leading zeros.
    if not (name.isascii() and name.isdigit()) or (name.startswith("0") and name != "0") or len(name) > 20:
        return None
    return int(name)


def is_exact_version(text: str) -> bool:
    """Returns whether `text` is an exact version in its plain form, without a leading `v`."""
    # Releases of python-semver treat digits outside ASCII and trailing newlines differently; SemVer allows neither.
    return len(text) <= MAX_VERSION_LENGTH and text.isascii() and text.isprintable() and Version.is_valid(text)
