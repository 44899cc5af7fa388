"""The files of a model where its publisher has them: the ONNX file, and the external data beside it.

A link in place of external data is refused, since a model from elsewhere may bring links to files of whoever publishes
it. One kind is followed: the Hugging Face cache holds every file once, under `blobs/`, and snapshots of links to them.

    models--org--name/blobs/<hash>
    models--org--name/snapshots/<commit>/onnx/model.onnx_data -> ../../../blobs/<hash>
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from turnout.errors import InvalidModel
from turnout.registry.manifest.digest import Progress
from turnout.registry.manifest.manifest import MODEL_FILE, FileEntry
from turnout.registry.onnx.model import ModelFacts, ReadModel
from turnout.registry.storage.files import copy_file, explain, open_inside, open_outside

_BLOBS, _SNAPSHOTS = "blobs", "snapshots"
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""Git's hash of a small file, or the SHA-256 of a large one."""


def copy_model(
    source: Path, directory: Path, read: ReadModel, progress: Progress | None = None
) -> tuple[list[FileEntry], ModelFacts]:
    """Copies an ONNX file to `model.onnx`, with its external data, and reads the copy. The source may be a link.

    Since the copy is read, later changes of the source have no effect.

    Raises:
        InvalidModel: A file is missing, is not regular, or is a link that is not followed.
        OSError: The copy cannot be written.
    """
    with opened(open_outside(source), "the ONNX file") as file:
        files = [copy_file(file, directory, MODEL_FILE, progress)]
    facts = read(directory / MODEL_FILE)
    for external in facts.external:
        with opened(open_external(source.parent, external.path), f"external data {external.path!r}") as file:
            files.append(copy_file(file, directory, external.path, progress))
    return files, facts


@contextmanager
def open_external(directory: Path, path: str) -> Iterator[BinaryIO]:
    """Opens a file of external data for reading.

    Args:
        directory: Of the ONNX file; may itself be reached over links.
        path: Relative, in its plain form.

    Raises:
        OSError: It is not there or cannot be read; or, with the number ELOOP, it is a link that is not followed, or no
            regular file.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_inside(directory, path))
        except OSError as error:
            if error.errno != errno.ELOOP or (blob := _blob(directory, path)) is None:
                raise
            cache, name = blob
            file = stack.enter_context(open_inside(cache, name))
        yield file


@contextmanager
def opened(opening: AbstractContextManager[BinaryIO], what: str) -> Iterator[BinaryIO]:
    """Opens a source and holds it open. Only opening it is its fault: what fails later may as well be the copy."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(opening)
        except OSError as error:
            raise InvalidModel(f"{what} {explain(error)}") from error
        yield file


def _blob(directory: Path, path: str) -> tuple[Path, str] | None:
    """Returns the cache, and the file in it, that a link in a snapshot of the Hugging Face cache leads to.

    None if it is no such link. The file itself may be none: whoever opens it follows no more links.
    """
    try:
        place = directory.resolve() / path
        link = os.readlink(place)
        home = place.parent.resolve()
    except OSError:
        return None
    if home != place.parent:  # a directory on the way is a link
        return None
    target = Path(os.path.normpath(home / link))
    cache = target.parent.parent
    within = home.is_relative_to(cache / _SNAPSHOTS) and home != cache / _SNAPSHOTS
    if target.parent.name != _BLOBS or not within or not _BLOB.fullmatch(target.name):
        return None
    return cache, f"{_BLOBS}/{target.name}"
