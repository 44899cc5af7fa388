"""Scans a directory of models for versions, and for entries that could be expected to be versions but are not."""

import os
from contextlib import suppress
from pathlib import Path

from turnout.registry.manifest.manifest import MANIFEST_FILE
from turnout.registry.manifest.names import differing_in_case, is_exact_version, model_name_fault
from turnout.registry.manifest.versions import Precedence, precedence
from turnout.registry.storage.files import FileStamp, explain, file_stamp, visible
from turnout.registry.storage.listing import Listing, Problem, Published, loose, unpublished
from turnout.registry.storage.manifests import manifest_fault, read_version

_Seen = dict[tuple[str, str], tuple[FileStamp, Published | Problem]]
"""The stamp of each manifest and what it was found to be, by model and version, so that it need not be read again."""


class VersionOrder:
    """Sorts versions. Returns the same tuple as before if the versions are the same objects."""

    def __init__(self) -> None:
        self._last: tuple[list[Published], tuple[Published, ...]] = ([], ())

    def of(self, published: list[Published]) -> tuple[Published, ...]:
        """Returns versions sorted by model and precedence."""
        # Sorting took three quarters of a scan in which nothing had changed (300 versions, 6 of 8 ms).
        before, order = self._last
        if len(before) != len(published) or any(a is not b for a, b in zip(before, published, strict=True)):
            order = tuple(sorted(published, key=_place))
            self._last = (published, order)
        return order


class DirectoryScan:
    """Scans a directory repeatedly, and remembers unchanged manifests. Thread-safe."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: _Seen = {}
        self._order = VersionOrder()

    def scan(self) -> Listing:
        """Reads the directory; see `Repository.scan`."""
        seen: _Seen = {}
        published: list[Published] = []
        problems: list[Problem] = []
        models = directory_names(self._root)
        twice = differing_in_case(models)
        problems += (loose(file, "") for file in loose_files(self._root) if file.stem not in models)
        for model in models:
            if fault := self._model_fault(model, twice.get(model)):
                problems.append(Problem(model, "", fault))
                continue
            try:
                versions = directory_names(self._root / model)
            except OSError as error:
                problems.append(Problem(model, "", f"the directory of {model} {explain(error)}"))
                continue
            before = len(published)
            for version in versions:
                found = self._examine(model, version, seen)
                if isinstance(found, Published):
                    published.append(found)
                elif found is not None:
                    problems.append(found)
            if len(published) == before:
                problems += (loose(file, model) for file in loose_files(self._root / model))
        self._seen = seen
        found_problems = tuple(sorted(problems, key=lambda p: (p.model, p.version)))
        return Listing(
            self._order.of(published), found_problems, bool(published or found_problems) or self._root.is_dir()
        )

    def _model_fault(self, model: str, other: str | None) -> str | None:
        if fault := model_name_fault(model):
            return f"directory {model!r} {fault}"
        if (self._root / model).is_symlink():
            return f"directory {model!r} is a link, and links are not followed"
        with suppress(OSError):
            if other is not None and directory_names(self._root / other):
                return f"directory {model!r} differs from {other!r} in case only: rename one"
        return None

    def _examine(self, model: str, version: str, seen: _Seen) -> Published | Problem | None:
        directory = self._root / model / version
        try:
            stamp = file_stamp(os.lstat(f"{directory}/{MANIFEST_FILE}"))
        except FileNotFoundError:
            return unpublished(directory, model, version)
        except OSError as error:
            reason = f"{model} {version}: {MANIFEST_FILE} {explain(error)}"
            return Problem(model, version, reason, damaged=is_exact_version(version))
        before = self._seen.get((model, version))
        if before is None or before[0] != stamp:
            if (found := _look(directory, model, version)) is None:
                return None
            before = stamp, found
        seen[model, version] = before
        return before[1]


def _place(published: Published) -> tuple[str, Precedence, str]:
    # Precedence ignores build metadata; the text makes the order of versions that differ only in it definite.
    return published.manifest.model, precedence(published.manifest.version), str(published.manifest.version)


def directory_names(directory: Path) -> list[str]:
    """Returns the names of the directories in `directory`, and of links to directories, except hidden ones.

    Returns [] if `directory` does not exist.
    """
    with suppress(FileNotFoundError):
        return [entry.name for entry in visible(directory) if entry.is_dir()]
    return []


def loose_files(directory: Path) -> list[Path]:
    """Returns the ONNX files in `directory` sorted by name, except hidden ones; [] if it cannot be read."""
    with suppress(OSError):
        return [directory / e.name for e in visible(directory) if e.name.endswith(".onnx") and e.is_file()]
    return []


def _look(directory: Path, model: str, version: str) -> Published | Problem | None:
    """Reads the manifest of a version; None if it was removed since it was listed."""
    if directory.is_symlink():
        return Problem(model, version, f"{model} {version} is a link, and links are not followed")
    if not is_exact_version(version):
        return Problem(model, version, f"{model} {version!r}: the directory's name is not an exact version")
    try:
        return read_version(directory, model, version)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        return Problem(model, version, f"{model} {version}: {manifest_fault(error)}", damaged=True)
