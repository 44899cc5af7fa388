"""Records about a version that lie beside it, outside its digest.

    <root>/<model>/.attestations/<version>/{gates-<n>.json, bundle-<key>.sigstore.json, ...}

A version's own directory never changes once it exists. The name of this one begins with a dot, so that no scan takes it
for a version. What lies here need not be true and need not be there: each kind has its own way to be checked.
"""

import os
from contextlib import nullcontext, suppress
from pathlib import Path

from semver import Version

from turnout.registry.storage.files import open_inside, replace_file, sync_directory, write_file
from turnout.registry.storage.repository import Repository

ATTESTATIONS = ".attestations"

IMPORTED = "imported-"
"""What the names of attestations begin with that came with a version from another repository."""

MAX_BYTES = 4 << 20
"""Bytes that one attestation may have."""
MAX_FILES = 256
"""Attestations of one kind that are read of one version."""


def directory(repository: Repository, model: str, version: Version) -> Path:
    """Returns where the attestations of a version are, or would be.

    Raises:
        InvalidRequest: `model` is not a model name.
    """
    return repository.directory(model, version).parent / ATTESTATIONS / str(version)


def write(repository: Repository, model: str, version: Version, name: str, data: bytes) -> None:
    """Puts an attestation in its place, whole or not at all, and waits until it is on the disk.

    Raises:
        OSError: The repository could not be written to.
    """
    repository.check_writable()
    home = directory(repository, model, version)
    repository.put_evidence_record(model, version, name, data, new=False)
    replace_file(home / name, data)
    _sync(home)


def add(repository: Repository, model: str, version: Version, stem: str, data: bytes) -> Path:
    """Puts an attestation under the next free number of its kind, `<stem>-<n>.json`, durably; returns where.

    Raises:
        OSError: The repository could not be written to.
    """
    repository.check_writable()
    home = directory(repository, model, version)
    home.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        target = home / f"{stem}-{number}.json"
        if not os.path.lexists(target):
            with suppress(FileExistsError):  # another publish took the number in this moment
                repository.put_evidence_record(model, version, target.name, data, new=True)
                with suppress(FileExistsError) if repository.remote else nullcontext():  # brought here already
                    write_file(target, data)
                break
        number += 1
    _sync(home)
    return target


def remove(repository: Repository, model: str, version: Version, name: str) -> None:
    """Removes an attestation, if it is there.

    Raises:
        OSError: The repository could not be written to.
    """
    (directory(repository, model, version) / name).unlink(missing_ok=True)
    repository.delete_evidence_record(model, version, name)


def read(repository: Repository, model: str, version: Version, prefix: str, most: int = MAX_FILES) -> dict[str, bytes]:
    """Returns the attestations whose names begin with `prefix`, by name, the first `most` of them, save links and those
    that are too large.

    Raises:
        OSError: The directory cannot be read.
    """
    home = directory(repository, model, version)
    repository.refresh_evidence_records()
    try:
        names = sorted(name for name in os.listdir(home) if name.startswith(prefix))[:most]
    except FileNotFoundError:
        return {}
    found: dict[str, bytes] = {}
    for name in names:
        try:
            with open_inside(home, name) as file:
                data = file.read(MAX_BYTES + 1)
        except OSError:
            continue
        if len(data) <= MAX_BYTES:
            found[name] = data
    return found


def _sync(home: Path) -> None:
    for path in (home, home.parent, home.parent.parent):
        sync_directory(path)
