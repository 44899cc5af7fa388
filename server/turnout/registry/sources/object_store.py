"""Copies models from object stores, through fsspec."""

from pathlib import Path
from typing import Any, BinaryIO, cast

from turnout.errors import ConfigError, InvalidRequest
from turnout.registry.sources.local_model import fetch_model
from turnout.registry.transfer.upload_manifest import Bounds


def fetch_stored(scheme: str, url: str, home: Path, bounds: Bounds) -> Path:
    """Copies the model at `url` and its external data to `home`, and returns the path of the ONNX file.

    Credentials are found by the store's own library.

    Raises:
        ConfigError: The extra for the store is not installed.
        InvalidRequest: There is no model, or it is too large.
    """
    if url.endswith("/"):
        raise InvalidRequest.at("FILE", "expected the URL of an ONNX file, got that of a directory")
    system, path = _open_system(scheme, url)
    directory, _, name = path.rpartition("/")

    def open_file(file: str) -> BinaryIO:
        return cast(BinaryIO, system.open(f"{directory}/{file}", "rb"))

    return fetch_model(open_file, name, home, bounds)


def _open_system(scheme: str, url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url)
    except ImportError as error:
        raise ConfigError(
            f"{scheme}: needs the extra {scheme!r}, which is not installed: pip install 'turnout[{scheme}]'"
        ) from error
    except Exception as error:
        raise InvalidRequest.at("FILE", f"{scheme}: cannot be opened ({type(error).__name__})") from error
    return system, str(path)
