"""Names that come from outside: checked here before one of them touches a path. Pure."""

from semver import Version

from turnout.errors import InvalidRequest
from turnout.registry.manifest import MODEL_NAME

MAX_VERSION_LENGTH = 128
"""Characters a version may have. It names a directory, which most file systems hold to 255 bytes."""


def check_model_name(text: str) -> str:
    """Returns `text`, a model's name.

    Raises:
        InvalidRequest: It is none.
    """
    if not MODEL_NAME.fullmatch(text):
        raise InvalidRequest.at(
            "model",
            f"{text[:64]!r} is no model name, expected 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit",
        )
    return text


def parse_version(text: str) -> Version:
    """Reads one exact version, such as `3.2.0`, `v3.2.0` or `3.3.0-rc.1+build.5`.

    Raises:
        InvalidRequest: It is no SemVer 2.0.0 version.
    """
    plain = text.removeprefix("v")
    if len(text) > MAX_VERSION_LENGTH or not is_exact_version(plain):
        raise InvalidRequest.at(
            "version",
            f"{text[:64]!r} is no exact version, expected MAJOR.MINOR.PATCH as SemVer 2.0.0 has it, such as 3.2.0"
            f" or 3.3.0-rc.1, in {MAX_VERSION_LENGTH} characters at most",
        )
    return Version.parse(plain)


def is_exact_version(text: str) -> bool:
    """Says whether `text` is an exact version in its plain form, without a leading `v`."""
    # Releases of python-semver differ on digits outside ASCII and on a trailing newline; SemVer has neither.
    return len(text) <= MAX_VERSION_LENGTH and text.isascii() and text.isprintable() and Version.is_valid(text)
