"""Finds versions in a mounted directory of any layout, by their manifests or as Triton models.

    manifest.json model.onnx                     one version
    <model>/<version>/manifest.json              a repository
    models/<model>/<version>/manifest.json       an export
    <any>/models/<model>/<version>/manifest.json several exports
    <model>/<number>/model.onnx                  a Triton model repository
    <number>/model.onnx                          one model of a Triton model repository

Links to directories are followed, since the operator chose to mount them. Hidden names are skipped.
"""

from dataclasses import dataclass, field
from pathlib import Path

from turnout.registry.manifest.manifest import MANIFEST_FILE
from turnout.registry.storage.files import explain, visible
from turnout.registry.triton.tree import TritonModel, is_model, read_model_directory

_DEPTH = 4
"""Number of directory levels below the root in which manifests are searched, enough for several exports."""

MAX_DIRECTORIES = 100_000


@dataclass(slots=True)
class Places:
    """Contents of a directory.

    Attributes:
        versions: Directories with a manifest, sorted by path.
        loose: ONNX files that belong to neither.
        faults: Path below the root of everything that could not be read, and the reason.
    """

    versions: list[Path] = field(default_factory=list)
    models: list[TritonModel] = field(default_factory=list)
    loose: list[Path] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)


def find_places(root: Path) -> Places:
    """Searches a directory. Raises OSError if the directory itself cannot be read."""
    found = Places()
    pending: list[tuple[Path, int]] = [(root, 0)]
    seen = 0
    while pending:
        directory, depth = pending.pop()
        seen += 1
        if seen > MAX_DIRECTORIES:
            found.faults.append(("", f"it contains more than {MAX_DIRECTORIES} directories, and not all were searched"))
            break
        try:
            is_directory = {entry.name: entry.is_dir() for entry in visible(directory)}
        except OSError as error:
            if directory == root:
                raise
            found.faults.append((str(directory.relative_to(root)), explain(error)))
            continue
        files = [name for name, is_so in is_directory.items() if not is_so]
        if MANIFEST_FILE in files:
            found.versions.append(directory)
        elif is_model(directory):
            found.models.append(read_model_directory(directory, None if directory == root else directory.name))
        else:
            found.loose += (directory / name for name in files if name.endswith(".onnx"))
            if depth < _DEPTH:
                below = [directory / name for name, is_so in is_directory.items() if is_so]
                pending += ((path, depth + 1) for path in reversed(below))
    return found
