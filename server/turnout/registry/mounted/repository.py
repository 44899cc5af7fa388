"""A read-only repository. Versions are served from where they are, and Triton models get manifests in memory."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from semver import Version

from turnout.errors import ChangeRefused, DigestMismatch, InvalidModel, InvalidRequest
from turnout.registry.manifest.digest import stream_digest
from turnout.registry.manifest.manifest import MANIFEST_FILE, MODEL_FILE, FileEntry
from turnout.registry.manifest.names import check_model_name, differing_in_case
from turnout.registry.mounted.discovery import find_places
from turnout.registry.onnx.model import ModelFacts, ReadModel
from turnout.registry.onnx.model_files import copy_model, opened
from turnout.registry.publishing.manifest_builder import stated
from turnout.registry.storage.files import FileStamp, explain, file_stamp, open_inside
from turnout.registry.storage.listing import Listing, Problem, Published
from turnout.registry.storage.manifests import manifest_fault, read_manifest
from turnout.registry.storage.repository import Repository, not_found
from turnout.registry.storage.scanning import VersionOrder
from turnout.registry.triton.config_text import CONFIG_FILE
from turnout.registry.triton.mapping import FieldOutcome, MappedField
from turnout.registry.triton.tree import TritonModel, version_of

_Key = tuple[str, Version]
_Stamp = tuple[FileStamp, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """The location of one version.

    Attributes:
        triton: Whether it is a Triton model, without a manifest and perhaps with other files beside its own.
        stamp: Stamp of the files that it was made from.
    """

    directory: Path
    published: Published
    triton: bool
    stamp: _Stamp


class MountedRepository(Repository):
    """The versions in a directory that is never written to. Thread-safe."""

    def __init__(self, root: Path, read: ReadModel, scratch: Callable[[], Path]) -> None:
        """Creates the repository. Nothing is read before it is needed.

        `scratch` returns a directory of this process. It is called only if there are models whose files cannot be
        served in place, which are copied there: ONNX files with another name than `model.onnx`, and links.
        """
        super().__init__(root)
        self._order = VersionOrder()
        self._read = read
        self._scratch = scratch
        self._describing = threading.Lock()
        self._places: Mapping[_Key, _Place] | None = None
        self._models: Mapping[str, TritonModel] = {}

    def check_writable(self) -> None:
        """Raises ChangeRefused, since the repository is mounted read-only."""
        raise ChangeRefused(
            "the repository is served read-only, so nothing can be published to it, signed or removed: put the version"
            " into the mounted directory, or serve a repository without --read-only"
        )

    def scan(self) -> Listing:
        """Reads the repository. What did not change since the last scan is not read again.

        New models are read in full, by one thread. Until it is done, other threads do not see these models, so that
        they do not have to wait.

        Raises:
            OSError: The root cannot be read.
        """
        describes = self._describing.acquire(blocking=False)
        try:
            return self._scan(describes=describes)
        finally:
            if describes:
                self._describing.release()

    def directory(self, model: str, version: Version) -> Path:
        """Returns the directory of a version, or the directory that it would have in a repository.

        Raises:
            InvalidRequest: `model` is not a valid model name.
        """
        place = self._found().get((check_model_name(model), version))
        return super().directory(model, version) if place is None else place.directory

    def find(self, model: str, version: Version) -> Published:
        """Returns one version. Raises the same errors as in `Repository`."""
        place = self._found().get((check_model_name(model), version))
        if place is None:
            raise not_found(self.scan(), model, version)
        if place.triton:
            return place.published
        try:
            found = read_manifest(place.directory)
        except (ValueError, OSError) as error:
            raise DigestMismatch(f"{model} {version}: {manifest_fault(error)}") from error
        if _key(found) != (model, version):
            raise DigestMismatch(f"{model} {version}: {MANIFEST_FILE} is that of another version")
        return found

    def sweep(self) -> tuple[str, ...]:
        """Returns (), since nothing is ever published here."""
        return ()

    def was_tried(self, published: Published) -> bool:
        """Returns False for a Triton model, which nobody has published."""
        return not self.is_triton(published)

    def is_triton(self, published: Published) -> bool:
        """Returns whether a version is a Triton model, which its version policy selects for serving."""
        place = self._found().get(_key(published))
        return place is not None and place.triton

    @property
    def settings(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """Server settings from the Triton configurations, by model and table, as of the last scan."""
        return {name: model.mapped.settings for name, model in self._models.items() if model.mapped.settings}

    @property
    def left_out(self) -> Mapping[str, Sequence[MappedField]]:
        """Configuration fields without an equivalent in Turnout, by model, as of the last scan."""
        warm_up = MappedField("model_warmup", FieldOutcome.LEFT_OUT, "an import makes golden cases of it")
        rows: dict[str, list[MappedField]] = {}
        for name, model in self._models.items():
            rows[name] = [row for row in model.rows if row.outcome is FieldOutcome.LEFT_OUT]
            rows[name] += [warm_up] if model.warm_up else []
        return {name: found for name, found in rows.items() if found}

    def _scan(self, *, describes: bool) -> Listing:
        try:
            found = find_places(self.root)
        except FileNotFoundError:
            self._places, self._models = {}, {}
            return Listing(present=False)
        before = self._places or {}
        problems = [_unserved(path, path, f"the directory {path!r} {why}") for path, why in found.faults]
        places: dict[_Key, list[_Place]] = {}
        for directory in found.versions:
            place = self._with_manifest(directory, problems)
            if place is not None:
                places.setdefault(_key(place.published), []).append(place)
        for model in found.models:
            for place in self._of_triton(model, before, problems, describes=describes):
                places.setdefault(_key(place.published), []).append(place)
        for file in found.loose:
            name = str(file.relative_to(self.root))
            reason = f"{name} is not in a version directory and is not served; expected {file.stem}/1/{MODEL_FILE}"
            problems.append(_unserved(file.stem, name, reason))
        kept = self._unambiguous(places, problems)
        if describes:
            self._places = kept
            self._models = {model.name: model for model in found.models if not model.fault}
        published = self._order.of([place.published for place in kept.values()])
        if describes and not published and not problems:
            reason = "the mounted directory contains no version of a model, and no Triton model repository"
            problems.append(_unserved(self.root.name, ".", reason))
        return Listing(published, tuple(sorted(problems, key=lambda p: (p.model, p.version))))

    def _strangers(self, published: Published) -> list[str]:
        return [] if self.is_triton(published) else super()._strangers(published)

    def _found(self) -> Mapping[_Key, _Place]:
        if self._places is None:
            self.scan()
        return self._places or {}

    def _with_manifest(self, directory: Path, problems: list[Problem]) -> _Place | None:
        try:
            published = read_manifest(directory)
        except (ValueError, OSError) as error:
            displayed = "." if directory == self.root else str(directory.relative_to(self.root))
            problems.append(_unserved(displayed, MANIFEST_FILE, f"{displayed}: {manifest_fault(error)}"))
            return None
        return _Place(directory, published, triton=False, stamp=())

    def _of_triton(
        self, model: TritonModel, before: Mapping[_Key, _Place], problems: list[Problem], *, describes: bool
    ) -> Iterator[_Place]:
        if model.fault:
            problems.append(_unserved(model.name, CONFIG_FILE, f"{model.name} is not served: {model.fault}"))
            return
        for number, why in model.faults.items():
            problems.append(_unserved(model.name, str(number), f"{model.name} {number} is not served: {why}"))
        for number in model.served:
            source = model.sources[number]
            known = before.get((model.name, version_of(number)))
            try:
                if known is not None and (not describes or known.stamp == _stamp(model, source, known.published)):
                    yield known
                elif describes:
                    yield self._describe(model, number, source)
            except (InvalidModel, InvalidRequest) as error:
                reason = f"{model.name} {number} is not served: {error.message}"
                problems.append(_unserved(model.name, str(number), reason))
            except OSError as error:
                problems.append(_unserved(model.name, str(number), f"{model.name} {number}: a file {explain(error)}"))

    def _describe(self, model: TritonModel, number: int, source: Path) -> _Place:
        version = version_of(number)
        began = _stamp(model, source, None)
        with ExitStack() as undo:
            directory, files, facts = self._where_it_lies(source) or self._copied(model.name, version, source, undo)
            metadata = model.metadata
            metadata.check_against(facts.signature)
            manifest, digest = stated(model.name, version, files, facts, metadata)
            published = Published(manifest, digest)
            stamp = _stamp(model, source, published)
            if stamp[: len(began)] != began:
                raise InvalidModel("its files are changing; it will be read again")
            undo.pop_all()
            return _Place(directory, published, triton=True, stamp=stamp)

    def _where_it_lies(self, source: Path) -> tuple[Path, list[FileEntry], ModelFacts] | None:
        """Reads a model in place; returns None if it cannot be served from there."""
        directory = source.parent
        if source.name != MODEL_FILE or source.is_symlink():
            return None
        facts = self._read(source)
        paths = [MODEL_FILE, *(external.path for external in facts.external)]
        if any(_leads_elsewhere(directory, path) for path in paths):
            return None
        files = []
        for path in paths:
            with opened(open_inside(directory, path), path) as file:
                files.append(FileEntry(path, os.fstat(file.fileno()).st_size, stream_digest(file)))
        return directory, files, facts

    def _copied(
        self, model: str, version: Version, source: Path, undo: ExitStack
    ) -> tuple[Path, list[FileEntry], ModelFacts]:
        # A new directory each time, since the previous one may be mapped into memory.
        directory = self._scratch() / f"{model}-{version}-{uuid4().hex}"
        undo.callback(shutil.rmtree, directory, ignore_errors=True)  # a refused model is read again by the next scan
        directory.mkdir()
        files, facts = copy_model(source, directory, self._read)
        return directory, files, facts

    def _unambiguous(self, places: Mapping[_Key, Sequence[_Place]], problems: list[Problem]) -> dict[_Key, _Place]:
        """Returns the location of each version. A version that exists twice with different content is not served."""
        kept: dict[_Key, _Place] = {}
        twice = differing_in_case({model for model, _ in places})
        for (model, version), found in places.items():
            if len({place.published.digest for place in found}) > 1:
                where = " and ".join(str(place.directory.relative_to(self.root)) for place in found[:3])
                reason = f"{model} {version} is there with different content, in {where}"
                problems.append(_unserved(model, str(version), reason))
            elif model in twice:
                reason = f"{model} differs from {twice[model]} in case only, and is not served: rename one"
                problems.append(_unserved(model, str(version), reason))
            else:
                kept[model, version] = found[0]
        return kept


def _unserved(model: str, version: str, reason: str) -> Problem:
    """Returns a problem with something that was mounted to be served."""
    return Problem(model, version, reason, unserved=True)


def _key(published: Published) -> _Key:
    return published.manifest.model, published.manifest.version


def _leads_elsewhere(directory: Path, path: str) -> bool:
    """Returns whether a path is a link, or passes through one. Files that are served must not."""
    here = directory
    for part in path.split("/"):
        here = here / part
        if here.is_symlink():
            return True
    return False


def _stamp(model: TritonModel, source: Path, published: Published | None) -> _Stamp:
    """Returns a value that changes whenever a file changes from which the version is made."""
    beside = [model.directory / CONFIG_FILE, *(model.directory / file for file, _ in model.mapped.label_files.values())]
    paths = [path for path in beside if path.exists()] + [source]
    if published is not None:
        paths += [source.parent / entry.path for entry in published.manifest.files if entry.path != MODEL_FILE]
    return tuple(file_stamp(path.stat()) for path in paths)
