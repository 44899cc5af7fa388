"""The URL of a model repository in an object store or a container registry.

s3://BUCKET[/PREFIX]     gs://BUCKET[/PREFIX]     oci://HOST[:PORT]/NAME
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import PlainSerializer, PlainValidator

from turnout.config.values import plain_text

SCHEMES = ("s3", "gs", "oci")

NO_STATE = (
    "the repository is {}, where no state store can lie: name one with --state, such as"
    " sqlite:////var/lib/turnout/state.db, or PostgreSQL for several servers"
)
"""Error message if the repository is a URL and no state store is configured."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/{1,2}(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_SEGMENT = re.compile(r"[A-Za-z0-9._=-]{1,255}")
_REGISTRY = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?)(:[0-9]{1,5})?")
# From the OCI distribution specification.
_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")

_MAX_LENGTH = 512


@dataclass(frozen=True, slots=True)
class RepositoryUrl:
    """The URL of a remote model repository.

    Attributes:
        scheme: `s3`, `gs` or `oci`.
        host: Name of the bucket, or host of the registry with its port, if given.
        path: Prefix of all keys in the bucket ("" for none), or name of the repository in the registry. It neither
            starts nor ends with a slash.
    """

    scheme: str
    host: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/{self.path}" if self.path else f"{self.scheme}://{self.host}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses a URL.

        Raises:
            ValueError: The URL is not valid. The message does not quote it, since it may contain a password.
        """
        match = _URL.fullmatch(text)
        scheme = match[1].lower() if match else ""
        if match is None or scheme not in SCHEMES or len(text) > _MAX_LENGTH:
            raise ValueError(
                "expected a directory, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or oci://HOST/NAME, in 512 characters"
            )
        host, _, path = match[2].partition("/")
        if "@" in match[2]:
            raise ValueError(
                f"expected {scheme}:// without a user, key or password: credentials are taken from the environment and"
                " the files that the store's own tools use"
            )
        if "?" in match[2] or "#" in match[2]:
            raise ValueError(f"expected {scheme}:// without '?' and '#': what else there is to say are settings")
        path = path.rstrip("/")
        if scheme == "oci":
            if not _REGISTRY.fullmatch(host) or not _NAME.fullmatch(path) or len(path) > 255:
                raise ValueError(
                    "expected oci://HOST[:PORT]/NAME, with a NAME in lower case such as team/models, as registries have"
                )
            return cls(scheme, host, path)
        if not _BUCKET.fullmatch(host):
            raise ValueError(f"expected {scheme}://BUCKET or {scheme}://BUCKET/PREFIX, with a bucket's name")
        segments = path.split("/") if path else []
        if any(not _SEGMENT.fullmatch(part) or part in (".", "..") for part in segments):
            raise ValueError(
                f"expected a prefix of A-Z, a-z, 0-9, '.', '_', '=', '-' and single '/' behind {scheme}://BUCKET"
            )
        return cls(scheme, host, path)


def parse_models(value: Any) -> Path | RepositoryUrl:
    """Parses the setting `models`: a directory or a URL.

    Raises:
        ValueError: The value is neither.
    """
    if isinstance(value, RepositoryUrl):
        return value
    text = str(value) if isinstance(value, str | Path) else ""
    if not text:
        raise ValueError("expected a path or a URL such as s3://BUCKET/PREFIX")
    # A URL that passed through `Path` has lost one of its two slashes. `c:/models` is a directory.
    if (match := _URL.fullmatch(text)) and (len(match[1]) > 1 and (match[1].lower() in SCHEMES or "://" in text)):
        return RepositoryUrl.parse(text)
    return Path(plain_text(text))


ModelsField = Annotated[Path | RepositoryUrl, PlainValidator(parse_models), PlainSerializer(str)]
