"""The versions on disk: which exist, whether their bytes are what was published, what is in the way of others.

    <root>/<model>/<version>/{manifest.json, model.onnx, *.data, golden/*.npz}
    <root>/.staging/            where publishes are built (`turnout.registry.storage.staging`)

A directory is a version from the moment it holds a manifest, and its manifest is put there last.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from semver import Version

from turnout.errors import MODEL_SEEN, AlreadyExistsError, DigestMismatch, ModelNotFound, VersionNotFound
from turnout.registry.manifest.digest import Progress
from turnout.registry.manifest.manifest import MANIFEST_FILE
from turnout.registry.manifest.names import check_model_name, is_exact_version
from turnout.registry.storage.files import explain, sync_directory, sync_tree, walk
from turnout.registry.storage.listing import CacheUse, Listing, Published, UnusedFiles
from turnout.registry.storage.manifests import file_fault, manifest_fault, read_version
from turnout.registry.storage.placement import adopt_in_place, holds_same_files, move_in_place
from turnout.registry.storage.scanning import DirectoryScan, directory_names
from turnout.registry.storage.staging import sweep
from turnout.threads import Threads

_NAMED_FILES = 5

_THREADS = 4
"""Calls that may wait for the file system at once, beside loads and uploads, which have threads of their own."""

P = ParamSpec("P")
T = TypeVar("T")


class Repository:
    """A directory of models. Safe to use from several threads and several processes."""

    def __init__(self, root: Path) -> None:
        """Reads and creates nothing yet; `root` need not exist."""
        self.root = root
        self._directory_scan = DirectoryScan(root)
        self._threads = Threads("repository", _THREADS)

    @property
    def place(self) -> str:
        """Where versions live, for people: the directory, or the URL."""
        return str(self.root)

    @property
    def remote(self) -> bool:
        """Tells whether versions live elsewhere, and what is under the root is a copy that may go."""
        return False

    def close(self) -> None:
        """Closes connections, if versions live elsewhere."""

    def check_writable(self) -> None:
        """Checks that versions may be added, attested and removed here.

        Raises:
            ChangeRefused: They may not; the message says where they may.
        """

    async def in_thread(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a call that touches the repository in one of its threads, so that where its file system hangs, nothing
        else does.
        """
        return await self._threads.run(call, *args, **kwargs)

    def scan(self) -> Listing:
        """Reads what exists. A manifest that did not change since the last scan is not read again, so that a scan of
        some hundred versions takes milliseconds, and a version that stayed is the same object as before.

        Raises:
            OSError: The root cannot be read.
        """
        return self._directory_scan.scan()

    def published(self) -> Sequence[Published]:
        """Returns every version that exists, as `scan` does."""
        return self.scan().published

    def directory(self, model: str, version: Version) -> Path:
        """Returns where that version stands, or would stand.

        Raises:
            InvalidRequest: `model` is not a model name.
        """
        return self.root / check_model_name(model) / str(version)

    def fetch(self, model: str, version: Version) -> Path:
        """Returns the directory of a version with its files in it, brought here first where they live elsewhere.

        Raises:
            InvalidRequest: `model` is not a model name.
            ModelNotFound, VersionNotFound: There is no such version; only if it would have to be brought here.
            DigestMismatch: What was brought is not what was published.
            StoreUnavailable: It cannot be brought here now.
            Exhausted: There is no room for it.
        """
        return self.directory(model, version)

    def numbers(self, model: str) -> list[Version]:
        """Returns the versions that stand in the repository now, whether or not their manifests can be read.

        Raises:
            AlreadyExistsError: A link stands where the model's versions go.
            OSError: That cannot be found out.
        """
        home = self.root / check_model_name(model)
        if home.is_symlink():
            raise AlreadyExistsError(f"a link stands where the versions of {model} go, and links are not followed")
        with suppress(FileNotFoundError):
            return [
                Version.parse(entry.name)
                for entry in os.scandir(home)
                if is_exact_version(entry.name) and os.path.lexists(home / entry.name / MANIFEST_FILE)
            ]
        return []

    def verify_stored(
        self, model: str, version: Version, *, expected: str | None = None, progress: Progress | None = None
    ) -> Published:
        """Verifies a version where it lives, past any copy of it; as `verify`."""
        return self.verify(model, version, expected=expected, progress=progress)

    def prepare(self, staged: Path, published: Published) -> Callable[[], bool]:
        """Does all that is to be done before anybody may see a staged version, and can be done without the lock.

        `staged` is the version's directory, including the manifest.

        Returns:
            What makes it exist, for everyone at once or not at all; called under the repository's lock. It returns
            False if the very same version came to exist meanwhile. Another one raises AlreadyExistsError.

        Raises:
            OSError: The repository cannot be written to.
        """
        manifest = published.manifest
        target = self.directory(manifest.model, manifest.version)
        sync_tree(staged)
        in_place = holds_same_files(target, manifest)

        def make_exist() -> bool:
            target.parent.mkdir(exist_ok=True)
            (adopt_in_place if in_place else move_in_place)(staged, target)
            sync_directory(target.parent)
            sync_directory(self.root)
            return True

        return make_exist

    def withdraw(self, model: str, version: Version) -> None:
        """Ends that a version exists where it lives, if that is elsewhere.

        Raises:
            OSError: It cannot be written there.
        """

    def put_evidence_record(self, model: str, version: Version, name: str, data: bytes, *, new: bool) -> None:
        """Writes an attestation to the remote store, if there is one. If `new`, it must not exist yet.

        Raises:
            FileExistsError: It exists, and was to be new.
            OSError: It cannot be written there.
        """

    def delete_evidence_record(self, model: str, version: Version, name: str) -> None:
        """Removes an attestation from where versions live, if that is elsewhere.

        Raises:
            OSError: It cannot be removed there.
        """

    def refresh_evidence_records(self) -> None:
        """Brings attestations here that are new where versions live, if that is elsewhere and was not asked just now.

        Raises:
            OSError: They cannot be read there.
        """

    def expect(self, keys: Collection[tuple[str, Version]]) -> None:
        """Tells which versions should be there, as far as the state store knows: one that is not known here is looked
        for by the next scan, however soon that is.
        """

    def look_soon(self) -> None:
        """Has the next scan look, however soon that is."""

    def unused_files(self) -> UnusedFiles:
        """Returns what publishes that were cut short, and versions that were removed, have left where versions live, if
        that is elsewhere, and nobody has touched for a day.

        Raises:
            StoreUnavailable: It cannot be listed.
        """
        return UnusedFiles()

    def remove_unused(self, unused: UnusedFiles) -> int:
        """Removes such files, each if it still is one; returns the bytes that were freed.

        Raises:
            ChangeRefused: The repository is served read-only.
            StoreUnavailable: They cannot be removed.
        """
        return 0

    def cache_use(self) -> CacheUse | None:
        """Returns what is in the cache; None if versions live here."""
        return None

    def being_published(self, published: Published) -> bool:
        """Tells whether a publisher elsewhere, whom no lock shows, may be about to record a version."""
        return False

    def find(self, model: str, version: Version) -> Published:
        """Reads one version's manifest.

        Raises:
            InvalidRequest: `model` is not a model name.
            ModelNotFound, VersionNotFound: There is no such version; the error names the nearest.
            DigestMismatch: It exists, but what should be its manifest is not a manifest.
        """
        directory = self.directory(model, version)
        link = directory.is_symlink() or directory.parent.is_symlink()
        if link or not os.path.lexists(directory / MANIFEST_FILE):
            raise not_found(self.scan(), model, version)
        try:
            return read_version(directory, model, str(version))
        except (ValueError, OSError) as error:
            raise DigestMismatch(f"{model} {version}: {manifest_fault(error)}") from error

    def verify(
        self, model: str, version: Version, *, expected: str | None = None, progress: Progress | None = None
    ) -> Published:
        """Reads every byte of a version and compares it with the manifest.

        Args:
            model: Its model.
            version: Exact version.
            expected: The version's digest, if it is known from elsewhere; without it, a manifest that another valid
                one took the place of goes unnoticed.
            progress: Told of each block read.

        Returns:
            The version.

        Raises:
            ModelNotFound, VersionNotFound: There is no such version.
            DigestMismatch: Files changed, are missing, or are too many; the message names them.
        """
        published = self.find(model, version)
        directory = self.directory(model, version)
        manifest = published.manifest
        faults: list[str] = []
        if expected is not None and published.digest != expected:
            faults.append(f"{MANIFEST_FILE} is not what was published (expected {expected}, got {published.digest})")
        checks = ((entry.path, file_fault(directory, entry, progress)) for entry in manifest.files)
        faults += [f"{path} {fault}" for path, fault in checks if fault]
        known = {MANIFEST_FILE, *(entry.path for entry in manifest.files)}
        try:
            faults += sorted(f"{path} does not belong to it" for path in self._paths(published) if path not in known)
        except OSError as error:
            faults.append(f"a directory {explain(error)}")
        if faults:
            more = f" (and {len(faults) - _NAMED_FILES} more)" if len(faults) > _NAMED_FILES else ""
            raise DigestMismatch(f"{model} {version}: {', '.join(faults[:_NAMED_FILES])}{more}")
        return published

    def sweep(self) -> tuple[str, ...]:
        """Removes what publishes that were cut short left behind, never what one that runs is building.

        Returns:
            Names of the staging directories removed.

        Raises:
            OSError: The staging directory cannot be read.
        """
        return sweep(self.root)

    def check_case(self, model: str) -> None:
        """Checks that no other model with versions has the name `model` in another case.

        Raises:
            AlreadyExistsError: One has; the error names it, unless the caller may not know of it.
            OSError: The root cannot be read.
        """
        self.check_names(
            model,
            [
                name
                for name in directory_names(self.root)
                if name.lower() == model.lower() and directory_names(self.root / name)
            ],
        )

    @staticmethod
    def check_names(model: str, others: Iterable[str]) -> None:
        """Checks that none of `others`, which have versions, is `model` in another case.

        Raises:
            AlreadyExistsError: One is; the error names it, unless the caller may not know of it.
        """
        for other in sorted(others):
            if other.lower() == model.lower() and other != model:
                seen = MODEL_SEEN.get()
                if seen is None or seen(other):
                    raise AlreadyExistsError(
                        f"{model!r} differs from the model {other} in case only: publish to {other}"
                    )
                raise AlreadyExistsError(f"{model!r} differs from another model's name in case only: take another name")

    def _paths(self, published: Published) -> Iterator[str]:
        """Yields the paths of all files that lie where a version does. Raises OSError if that cannot be read."""
        manifest = published.manifest
        return (found.path for found in walk(self.directory(manifest.model, manifest.version)))


def not_found(listing: Listing, model: str, version: Version) -> ModelNotFound | VersionNotFound:
    """Makes the error for a version that a listing does not hold."""
    if versions := listing.versions(model):
        return VersionNotFound.of(model, str(version), [str(p.manifest.version) for p in versions])
    return ModelNotFound.named(model, listing.models)
