"""Opens the files of a model where its publisher has them: the ONNX file, and the external data beside it.

Links in place of external data are refused, because a model from elsewhere could contain links to the publisher's own
files. There is one exception: the Hugging Face cache stores every file once, under `blobs/`, with snapshots that
consist of links to them.

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
from turnout.registry.onnx.model import ModelFacts, ReadModel, check_size
from turnout.registry.storage.files import copy_file, explain, open_inside, open_outside

_BLOBS, _SNAPSHOTS = "blobs", "snapshots"
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""Git's hash of a small file, or the SHA-256 of a large one."""


def copy_model(
    source: Path, directory: Path, read: ReadModel, progress: Progress | None = None
) -> tuple[list[FileEntry], ModelFacts]:
    """Copies an ONNX file, which may be a link, as `model.onnx`, with its external data, and reads the copy. Changes of
    the source in the meantime therefore do not matter.

    Raises:
        InvalidModel: A file is missing, is not a regular file, or is a link that is not followed.
        OSError: The copy cannot be written.
    """
    with opened(open_outside(source), "the ONNX file") as file:
        check_size(os.fstat(file.fileno()).st_size)
        files = [copy_file(file, directory, MODEL_FILE, progress)]
    facts = read(directory / MODEL_FILE)
    for external in facts.external:
        with opened(open_external(source.parent, external.path), f"external data {external.path!r}") as file:
            files.append(copy_file(file, directory, external.path, progress))
    return files, facts


@contextmanager
def open_external(directory: Path, path: str) -> Iterator[BinaryIO]:
    """Opens a file of external data for reading. Links in the path of `directory`, that of the ONNX file, are followed.

    Raises:
        OSError: The file does not exist or cannot be read. The error number is ELOOP if it is a link that is not
            followed, or not a regular file.
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
    """Opens a source file. Raises InvalidModel if it cannot be opened, but not for errors in the block: these may also
    be errors of writing the copy.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(opening)
        except OSError as error:
            raise InvalidModel(f"{what} {explain(error)}") from error
        yield file


def _blob(directory: Path, path: str) -> tuple[Path, str] | None:
    """Returns the root of a Hugging Face cache, and the file in it, to which a link in a snapshot points.

    Returns None if it is not such a link. The target itself may be a link or missing, so it must be opened without
    following links.
    """
    try:
        place = directory.resolve() / path
        link = os.readlink(place)
        home = place.parent.resolve()
    except OSError:
        return None
    if home != place.parent:  # a directory in the path is a link
        return None
    target = Path(os.path.normpath(home / link))
    cache = target.parent.parent
    within = home.is_relative_to(cache / _SNAPSHOTS) and home != cache / _SNAPSHOTS
    if target.parent.name != _BLOBS or not within or not _BLOB.fullmatch(target.name):
        return None
    return cache, f"{_BLOBS}/{target.name}"
