"""The versions on disk: lists, verifies and commits them.

    <root>/<model>/<version>/{manifest.json, model.onnx, *.data, golden/*.npz}
    <root>/.staging/            where publishes are built (`turnout.registry.storage.staging`)

A directory is a version if it contains a manifest, which is always written last.
"""

import errno
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from semver import Version

from turnout.errors import MODEL_SEEN, AlreadyExistsError, DigestMismatch, ModelNotFound, VersionNotFound
from turnout.registry.manifest.digest import Progress, stream_digest
from turnout.registry.manifest.manifest import MANIFEST_FILE, Manifest
from turnout.registry.manifest.names import check_model_name, is_exact_version
from turnout.registry.storage.files import explain, open_inside, seal, sync_directory, sync_tree, walk
from turnout.registry.storage.listing import CacheUse, Listing, Published, UnusedFiles
from turnout.registry.storage.manifests import file_fault, manifest_fault, read_version
from turnout.registry.storage.scanning import DirectoryScan, directory_names
from turnout.registry.storage.staging import sweep
from turnout.threads import Threads

_NAMED_FILES = 5

_THREADS = 4
"""Number of threads that may wait for the file system, in addition to those of loads and uploads."""

P = ParamSpec("P")
T = TypeVar("T")


class Repository:
    """A directory of models. Safe to use from several threads and processes.

    Methods that concern remote storage do nothing if there is none. They raise OSError if it cannot be read or written
    to, and FileExistsError for something that must not exist yet.

    Attributes:
        place: Location of the versions for display: the directory or the URL.
        remote: Whether versions are stored elsewhere, so that the files under the root are only a cache.
    """

    remote = False

    def __init__(self, root: Path) -> None:
        """Creates the repository. Nothing is read or created before it is needed, and `root` need not exist."""
        self.root = root
        self.place = str(root)
        self._directory_scan = DirectoryScan(root)
        self._threads = Threads("repository", _THREADS)

    def close(self) -> None:
        """Closes connections to remote storage, if any."""

    def check_writable(self) -> None:
        """Checks that versions may be added, attested and removed.

        Raises:
            ChangeRefused: They may not; the message says what to do instead.
        """

    async def in_thread(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a call that uses the repository in one of its threads. If the file system hangs, only these threads are
        blocked.
        """
        return await self._threads.run(call, *args, **kwargs)

    def scan(self) -> Listing:
        """Reads the repository. Manifests that did not change since the last scan are not read again, so that a scan of
        some hundred versions takes milliseconds, and unchanged versions are the same objects as before.

        Raises:
            OSError: The root cannot be read.
        """
        return self._directory_scan.scan()

    def published(self) -> Sequence[Published]:
        """Returns all versions, as found by `scan`."""
        return self.scan().published

    def directory(self, model: str, version: Version) -> Path:
        """Returns the directory of a version, whether it exists or not.

        Raises:
            InvalidRequest: `model` is not a valid model name.
        """
        return self.root / check_model_name(model) / str(version)

    def fetch(self, model: str, version: Version) -> Path:
        """Returns the directory of a version with its files, which are fetched first if they are stored elsewhere.

        Raises:
            InvalidRequest: `model` is not a valid model name.
            ModelNotFound, VersionNotFound: There is no such version. Raised only if it would have to be fetched.
            DigestMismatch: The fetched files are not what was published.
            StoreUnavailable: The version cannot be fetched now.
            Exhausted: There is not enough room for it.
        """
        return self.directory(model, version)

    def numbers(self, model: str) -> list[Version]:
        """Returns the versions that are now in the repository, whether their manifests can be read or not.

        Raises:
            AlreadyExistsError: The model's directory is a link, or another model with versions has the same name except
                for case. The error names it, unless the caller may not know about it.
            OSError: The repository cannot be read.
        """
        home = self.root / check_model_name(model)
        alike = [name for name in directory_names(self.root) if name.lower() == model.lower()]
        refuse_other_case(model, [name for name in alike if directory_names(self.root / name)])
        if home.is_symlink():
            raise AlreadyExistsError(f"the directory of {model} is a link, and links are not followed")
        return [
            Version.parse(name)
            for name in directory_names(home)
            if is_exact_version(name) and os.path.lexists(home / name / MANIFEST_FILE)
        ]

    def verify_stored(
        self, model: str, version: Version, *, expected: str | None = None, progress: Progress | None = None
    ) -> Published:
        """Verifies a version where it is stored, bypassing any cache. Otherwise like `verify`."""
        return self.verify(model, version, expected=expected, progress=progress)

    def prepare(self, staged: Path, published: Published) -> Callable[[], None]:
        """Does the part of a commit that needs no lock and is not visible to others.

        Args:
            staged: Complete directory of the version, including its manifest.
            published: The version.

        Returns:
            A function that makes the version exist, atomically. It must be called under the repository's lock. It
            raises AlreadyExistsError if another version was committed meanwhile.

        Raises:
            OSError: The repository cannot be written to.
        """
        manifest = published.manifest
        target = self.directory(manifest.model, manifest.version)
        sync_tree(staged)
        in_place = _holds_same_files(target, manifest)

        def make_exist() -> None:
            target.parent.mkdir(exist_ok=True)
            (_adopt_in_place if in_place else _move_in_place)(staged, target)
            sync_directory(target.parent)
            sync_directory(self.root)

        return make_exist

    def withdraw(self, model: str, version: Version) -> None:
        """Removes a version from remote storage, if there is any."""

    def put_evidence_record(self, model: str, version: Version, name: str, data: bytes, *, new: bool) -> None:
        """Writes an attestation to remote storage, if there is any. It must not exist yet if `new` is true."""

    def delete_evidence_record(self, model: str, version: Version, name: str) -> None:
        """Removes an attestation from remote storage, if there is any."""

    def refresh_evidence_records(self) -> None:
        """Copies new attestations from remote storage, if there is any and it was not asked just now."""

    def expect(self, keys: Collection[tuple[str, Version]]) -> None:
        """Announces the versions that should exist according to the state store. If one is unknown here, the next scan
        looks for it, even if it comes soon.
        """

    def look_soon(self) -> None:
        """Makes the next scan list the repository, even if it comes soon."""

    def unused_files(self) -> UnusedFiles:
        """Returns files that belong to no version, left behind by interrupted publishes and removed versions, if they
        have not been modified for a day. Raises StoreUnavailable if they cannot be listed.
        """
        return UnusedFiles()

    def remove_unused(self, unused: UnusedFiles) -> int:
        """Removes such files, after checking again that they are unused. Returns the number of bytes freed.

        Raises:
            ChangeRefused: The repository is served read-only.
            StoreUnavailable: The files cannot be removed.
        """
        return 0

    def cache_use(self) -> CacheUse | None:
        """Returns the use of the cache; None if versions are not stored elsewhere."""
        return None

    def was_tried(self, published: Published) -> bool:
        """Returns whether a publish has loaded the version, in another process."""
        return True

    def being_published(self, published: Published) -> bool:
        """Returns whether a publisher on another machine, whose lock is not visible here, may be about to record it."""
        return False

    def find(self, model: str, version: Version) -> Published:
        """Reads one version's manifest.

        Raises:
            InvalidRequest: `model` is not a valid model name.
            ModelNotFound, VersionNotFound: There is no such version; the error names the nearest ones.
            DigestMismatch: The version exists, but its manifest is invalid.
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
        """Reads all bytes of a version and compares them with the manifest. Returns the version.

        `expected` is the digest of the version, if it is known from elsewhere. Without it, replacing the manifest with
        another valid one goes unnoticed.

        Raises:
            ModelNotFound, VersionNotFound: There is no such version.
            DigestMismatch: Files have changed, are missing, or do not belong there; the message names them.
        """
        published = self.find(model, version)
        directory = self.directory(model, version)
        manifest = published.manifest
        faults: list[str] = []
        if expected is not None and published.digest != expected:
            faults.append(f"{MANIFEST_FILE} is not what was published (expected {expected}, got {published.digest})")
        checks = ((entry.path, file_fault(directory, entry, progress)) for entry in manifest.files)
        faults += [f"{path} {fault}" for path, fault in checks if fault]
        try:
            faults += [f"{path} does not belong to it" for path in self._strangers(published)]
        except OSError as error:
            faults.append(f"a directory {explain(error)}")
        refuse_faults(model, version, faults)
        return published

    def sweep(self) -> tuple[str, ...]:
        """Removes the staging directories of interrupted publishes, but not those of running ones.

        Returns:
            Names of the removed staging directories.

        Raises:
            OSError: The staging directory cannot be read.
        """
        return sweep(self.root)

    def _strangers(self, published: Published) -> list[str]:
        """Returns the paths of files in a version's directory that do not belong to it. Raises OSError if the directory
        cannot be read.
        """
        manifest = published.manifest
        known = {MANIFEST_FILE, *(entry.path for entry in manifest.files)}
        found = walk(self.directory(manifest.model, manifest.version))
        return sorted(path for path, _ in found if path not in known)


def not_found(listing: Listing, model: str, version: Version) -> ModelNotFound | VersionNotFound:
    """Returns the error for a version that is not in a listing."""
    if versions := listing.versions(model):
        return VersionNotFound.of(model, str(version), [str(p.manifest.version) for p in versions])
    return ModelNotFound.named(model, listing.models)


def refuse_faults(model: str, version: Version, faults: Sequence[str]) -> None:
    """Raises DigestMismatch if a version has faults; the message names the first of them."""
    if faults:
        more = f" (and {len(faults) - _NAMED_FILES} more)" if len(faults) > _NAMED_FILES else ""
        raise DigestMismatch(f"{model} {version}: {', '.join(faults[:_NAMED_FILES])}{more}")


def refuse_other_case(model: str, others: Iterable[str]) -> None:
    """Raises AlreadyExistsError if the name of one of `others`, which are models with versions, differs from `model`
    only in case. The error names it, unless the caller may not know about it.
    """
    for other in sorted(others):
        if other.lower() == model.lower() and other != model:
            seen = MODEL_SEEN.get()
            if seen is None or seen(other):
                raise AlreadyExistsError(f"{model!r} differs from the model {other} in case only: publish to {other}")
            raise AlreadyExistsError(f"{model!r} differs from another model's name in case only: use another name")


def _move_in_place(staged: Path, target: Path) -> None:
    """Renames a staged version to its final directory, unless something else is in its place."""
    # rename(2) replaces only empty directories, and a version is never empty. So this overwrites nothing, atomically,
    # on every POSIX system; renameat2(RENAME_NOREPLACE) exists only on Linux and not in Python. The lock serializes
    # publishes, but this is safe even if a publisher does not take it.
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise AlreadyExistsError(
            f"{target.parent.name} {target.name}: something that is not a version is in its place; move it away, or"
            " leave only the files there that are to be published"
        ) from error


def _adopt_in_place(staged: Path, target: Path) -> None:
    """Turns a directory that was filled by hand, and only lacks the manifest, into a version.

    The files stay in place, so that a crash loses nothing that exists only there. link(2) overwrites nothing.
    """
    for path, _ in walk(target):
        with open_inside(target, path) as file:
            seal(file.fileno())
    sync_tree(target)
    try:
        os.link(staged / MANIFEST_FILE, target / MANIFEST_FILE, follow_symlinks=False)
    except FileExistsError as error:
        raise AlreadyExistsError(f"{target.parent.name} {target.name} was published at the same time") from error
    sync_directory(target)


def _holds_same_files(target: Path, manifest: Manifest) -> bool:
    """Returns whether a directory that is not a version contains exactly the files to publish."""
    if target.is_symlink() or os.path.lexists(target / MANIFEST_FILE):
        return False
    try:
        if {path for path, _ in walk(target)} != {entry.path for entry in manifest.files}:
            return False
        for entry in manifest.files:
            with open_inside(target, entry.path) as file:
                if stream_digest(file) != entry.digest:
                    return False
    except OSError:
        return False
    return True
