"""Copies files from a remote source, up to a size limit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from turnout.errors import InvalidModel, InvalidRequest, TurnoutError
from turnout.registry.manifest.digest import BLOCK
from turnout.registry.onnx.model import read_model
from turnout.registry.transfer.upload_manifest import Bounds

OpenFile = Callable[[str], BinaryIO]
"""Opens a file of a source for reading, by its path relative to the model's directory."""


@dataclass(slots=True)
class Budget:
    """The amount of data that may still be copied.

    Attributes:
        bounds: The limits.
        copied: Number of bytes copied so far.
    """

    bounds: Bounds
    copied: int = field(default=0)

    def copy(self, source: BinaryIO, target: Path, what: str) -> None:
        """Copies `source` to its end.

        Raises:
            InvalidRequest: A limit was exceeded.
            OSError: Reading or writing failed.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        with target.open("xb") as file:
            while block := source.read(BLOCK):
                size += len(block)
                self.copied += len(block)
                if size > self.bounds.max_file_bytes:
                    raise InvalidRequest.at("FILE", f"{what} is larger than {self.bounds.max_file_bytes} bytes")
                if self.copied > self.bounds.max_upload_bytes:
                    raise InvalidRequest.at("FILE", f"the model is larger than {self.bounds.max_upload_bytes} bytes")
                file.write(block)


def fetch_model(open_file: OpenFile, name: str, home: Path, bounds: Bounds) -> Path:
    """Copies the ONNX file `name`, and the external data that it refers to, to `home`.

    Args:
        open_file: Opens a file by its path relative to the model's directory.
        name: Name of the ONNX file.
        home: Directory to copy to.
        bounds: Limits.

    Returns:
        The copy of the ONNX file.

    Raises:
        InvalidRequest: A file cannot be read, or is too large.
        InvalidModel: The file is not an ONNX model, or refers to files outside its directory.
    """
    budget = Budget(bounds)
    model = home / "model.onnx"
    _copy(open_file, name, model, budget, "the ONNX file")
    external: Sequence[str] = [file.path for file in read_model(model).external]
    for path in external:
        if path == model.name:
            raise InvalidModel(f"the model names itself, {path!r}, as its external data")
        _copy(open_file, path, home / path, budget, f"external data {path!r}")
    return model


def _copy(open_file: OpenFile, name: str, target: Path, budget: Budget, what: str) -> None:
    try:
        with open_file(name) as source:
            budget.copy(source, target, what)
    except TurnoutError:
        raise
    except FileNotFoundError:
        raise InvalidRequest.at("FILE", f"{what} does not exist") from None
    except Exception as error:  # each store has its own errors, whose texts may contain confidential data
        raise InvalidRequest.at("FILE", f"{what} cannot be read ({type(error).__name__})") from error
