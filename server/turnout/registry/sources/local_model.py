"""A model to publish, as it is on this machine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from turnout.errors import InvalidModel, InvalidRequest, TurnoutError
from turnout.registry.manifest.digest import BLOCK
from turnout.registry.onnx.model import read_model
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.registry.transfer.upload_manifest import Bounds

OpenFile = Callable[[str], BinaryIO]
"""Opens a file of a source for reading, by its path relative to the model's directory."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on this machine, perhaps in a temporary directory.

    Attributes:
        path: The ONNX file, with its external data beside it.
        metadata: Metadata from its source.
    """

    path: Path
    metadata: VersionMetadata = field(default_factory=VersionMetadata)


def fetch_model(open_file: OpenFile, name: str, home: Path, bounds: Bounds) -> Path:
    """Copies the ONNX file `name`, and the external data that it refers to, to `home`.

    Returns:
        The ONNX file's copy.

    Raises:
        InvalidRequest: A file cannot be read, or is too large.
        InvalidModel: The file is not an ONNX model, or refers to files outside its directory.
    """
    model = home / "model.onnx"
    copied = _copy(open_file, name, model, bounds, 0, "the ONNX file")
    for file in read_model(model).external:
        if file.path == model.name:
            raise InvalidModel(f"the model names itself, {file.path!r}, as its external data")
        copied += _copy(open_file, file.path, home / file.path, bounds, copied, f"external data {file.path!r}")
    return model


def _copy(open_file: OpenFile, name: str, target: Path, bounds: Bounds, copied: int, what: str) -> int:
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
        raise InvalidRequest.at("FILE", f"{what} cannot be read ({type(error).__name__})") from error
    return size
