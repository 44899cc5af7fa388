"""Brings the model that is given to `turnout publish` to this machine.

m.onnx, file:///m.onnx          used in place
s3://, gs://, hf://             copied through fsspec; the extras s3, gs and hf
mlflow:models:/name@alias       copied from an MLflow registry; the extra mlflow
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from urllib.request import url2pathname

from turnout.errors import InvalidRequest
from turnout.registry.sources.local_model import ModelSource
from turnout.registry.storage.files import explain, open_outside
from turnout.registry.transfer.upload_manifest import Bounds

MLFLOW = "mlflow:"

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")
_REMOTE = ("s3", "gs", "hf")


@contextmanager
def local_source(text: str, bounds: Bounds) -> Iterator[ModelSource]:
    """Provides the model at a path or URL on this machine while the context is entered.

    Raises:
        InvalidRequest: There is no such file, it cannot be read, or it exceeds the limits.
        ConfigError: The extra for it is not installed.
    """
    scheme = found[0].removesuffix(":") if (found := _SCHEME.match(text)) else ""
    if scheme == "" or Path(text).exists():
        yield ModelSource(_existing(Path(text)))
    elif scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise InvalidRequest.at(
                "FILE", f"file: can only name files of this machine, got the host {parts.netloc[:64]!r}"
            )
        yield ModelSource(_existing(Path(url2pathname(parts.path))))
    elif scheme in _REMOTE:
        from turnout.registry.sources.object_store import fetch_stored

        rest = text.split(":", 1)[1].removeprefix("//")
        with TemporaryDirectory(prefix="turnout-source-") as home:
            yield ModelSource(fetch_stored(scheme, f"{scheme}://{rest}", Path(home), bounds))
    elif scheme == "mlflow":
        from turnout.registry.sources.mlflow_registry import fetch_registered

        with TemporaryDirectory(prefix="turnout-source-") as home:
            yield fetch_registered(text.removeprefix(MLFLOW), Path(home), bounds)
    else:
        known = ", ".join(("file:", *(f"{one}:" for one in _REMOTE), MLFLOW))
        raise InvalidRequest.at("FILE", f"expected a path or one of {known}, got {scheme[:32]!r}")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InvalidRequest.at("FILE", f"there is no {path}")
    try:
        with open_outside(path):
            return path
    except OSError as error:
        raise InvalidRequest.at("FILE", f"{path} {explain(error)}") from None
