"""Brings the model that is given to `turnout publish` to this machine.

m.onnx, file:///m.onnx          used in place
s3://, gs://, hf://             copied through fsspec; the extras s3, gs and hf
mlflow:models:/name@alias       copied from an MLflow registry; the extra mlflow
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from turnout.config import Transfers
from turnout.errors import ConfigError, Exhausted, InvalidModel, InvalidRequest, TurnoutError
from turnout.registry.manifest.digest import BLOCK
from turnout.registry.onnx.model import read_model
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.registry.storage.files import NO_ROOM, explain, open_outside

MLFLOW = "mlflow:"

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")
_REMOTE = ("s3", "gs", "hf")


OpenFile = Callable[[str], BinaryIO]
"""Opens a file of a source for reading, by its path relative to the model's directory."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on this machine, perhaps in a temporary directory.

    Attributes:
        path: The ONNX file, with its external data beside it.
    """

    path: Path
    metadata: VersionMetadata = field(default_factory=VersionMetadata)


@contextmanager
def local_source(text: str, bounds: Transfers) -> Iterator[ModelSource]:
    """Provides the model at a path or URL on this machine while the context is entered.

    Raises:
        InvalidRequest: There is no such file, it cannot be read, or it exceeds the limits.
        ConfigError: The extra for it is not installed.
    """
    scheme = found[0].removesuffix(":") if (found := _SCHEME.match(text)) else ""
    if scheme == "" or os.path.exists(text):
        yield ModelSource(_existing(Path(text)))
    elif scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise InvalidRequest.at(
                "FILE", f"file: can only name files of this machine, got the host {parts.netloc[:64]!r}"
            )
        yield ModelSource(_existing(Path(url2pathname(parts.path))))
    elif scheme in _REMOTE:
        rest = text.split(":", 1)[1].removeprefix("//")
        with TemporaryDirectory(prefix="turnout-source-") as home:
            yield ModelSource(_fetch_stored(scheme, f"{scheme}://{rest}", Path(home), bounds))
    elif scheme == "mlflow":
        from turnout.registry.sources.mlflow_registry import fetch_registered

        with TemporaryDirectory(prefix="turnout-source-") as home:
            yield fetch_registered(text.removeprefix(MLFLOW), Path(home), bounds)
    else:
        known = ", ".join(("file:", *(f"{one}:" for one in _REMOTE), MLFLOW))
        raise InvalidRequest.at("FILE", f"expected a path or one of {known}, got {scheme[:32]!r}")


def _existing(path: Path) -> Path:
    if not os.path.exists(path):  # nor if it is no path at all, for which Path.exists fails
        raise InvalidRequest.at("FILE", f"there is no {str(path)[:1024]}")
    try:
        with open_outside(path):
            return path
    except OSError as error:
        raise InvalidRequest.at("FILE", f"{path} {explain(error)}") from None


def fetch_model(open_file: OpenFile, name: str, home: Path, bounds: Transfers) -> Path:
    """Copies the ONNX file `name`, and the external data that it refers to, to `home`. Returns the ONNX file's copy.

    Raises:
        InvalidRequest: A file cannot be read, or is too large.
        Exhausted: There is no room for it on this machine.
        InvalidModel: The file is not an ONNX model, or refers to files outside its directory.
    """
    model = home / "model.onnx"
    copied = _copy(open_file, name, model, bounds, 0, "the ONNX file")
    for file in read_model(model).external:
        if file.path == model.name:
            raise InvalidModel(f"the model names itself, {file.path!r}, as its external data")
        copied += _copy(open_file, file.path, home / file.path, bounds, copied, f"external data {file.path!r}")
    return model


def _fetch_stored(scheme: str, url: str, home: Path, bounds: Transfers) -> Path:
    """Copies the model at `url` to `home`. Credentials are found by the store's own library."""
    if url.endswith("/"):
        raise InvalidRequest.at("FILE", "expected the URL of an ONNX file, got that of a directory")
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url)
    except ImportError as error:
        raise ConfigError(
            f"{scheme}: needs the extra {scheme!r}, which is not installed: pip install 'turnout[{scheme}]'"
        ) from error
    except Exception as error:
        raise InvalidRequest.at("FILE", f"{scheme}: cannot be opened ({type(error).__name__})") from error
    directory, _, name = str(path).rpartition("/")
    return fetch_model(lambda file: system.open(f"{directory}/{file}", "rb"), name, home, bounds)


def _copy(open_file: OpenFile, name: str, target: Path, bounds: Transfers, copied: int, what: str) -> int:
    """Copies a file, after `copied` bytes of others; returns its size."""
    size = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_file(name) as source, target.open("xb") as file:
            while block := source.read(BLOCK):
                size += len(block)
                if size > bounds.max_file_bytes:
                    raise InvalidRequest.at("FILE", f"{what} is larger than {bounds.max_file_bytes} bytes")
                if copied + size > bounds.max_upload_bytes:
                    raise InvalidRequest.at("FILE", f"the model is larger than {bounds.max_upload_bytes} bytes")
                file.write(block)
    except TurnoutError:
        raise
    except FileNotFoundError:
        raise InvalidRequest.at("FILE", f"{what} does not exist") from None
    except Exception as error:  # each store has its own errors, whose texts may contain confidential data
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise Exhausted(f"{target.parent} has no room for {what}; TMPDIR may name another directory") from error
        raise InvalidRequest.at("FILE", f"{what} cannot be read ({type(error).__name__})") from error
    return size
