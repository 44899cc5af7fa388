"""Records about a version that are stored beside it, not covered by its digest.

    <root>/<model>/.attestations/<version>/{gates-<n>.json, bundle-<key>.sigstore.json, ...}

A version's own directory never changes once it exists. The name of this directory begins with a dot, so that no scan
takes it for a version. Records may be wrong or missing: each kind has its own way of being checked.
"""

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from semver import Version

from turnout import __version__
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.manifest.names import ATTESTATIONS
from turnout.registry.storage.files import open_inside, replace_file, sync_directory, write_file
from turnout.registry.storage.repository import Repository

SCHEMA = 1
"""Schema of records. Those with another one are not read."""

IMPORTED = "imported-"
"""Prefix of the names of attestations that came with a version from another repository."""

SIGNATURE = "bundle-"
"""Prefix of the names of signatures. Anyone who may publish can store any number of them."""

MAX_BYTES = 4 << 20
"""Maximum size of an attestation in bytes."""
MAX_FILES = 256
"""Maximum number of attestations of one kind that are read of a version."""


def directory(repository: Repository, model: str, version: Version) -> Path:
    """Returns the directory of a version's attestations, whether it exists or not.

    Raises:
        InvalidRequest: `model` is not a valid model name.
    """
    return repository.directory(model, version).parent / ATTESTATIONS / str(version)


def record(kind: str, manifest: Manifest, digest: str, **more: Any) -> bytes:
    """Returns a record about a version as JSON, with the present time and the values in `more`."""
    body = {
        "schema": SCHEMA,
        "kind": kind,
        "model": manifest.model,
        "version": str(manifest.version),
        "digest": digest,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "turnout": __version__,
    }
    return json.dumps(body | more, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def write(repository: Repository, model: str, version: Version, name: str, data: bytes) -> None:
    """Writes an attestation atomically and durably. Raises OSError if the repository could not be written to."""
    repository.check_writable()
    home = directory(repository, model, version)
    repository.put_evidence_record(model, version, name, data, new=False)
    replace_file(home / name, data)
    _sync(home)


def add(repository: Repository, model: str, version: Version, stem: str, data: bytes) -> Path:
    """Writes an attestation durably under the next free number of its kind, `<stem>-<n>.json`. Returns its path.

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
            with suppress(FileExistsError):  # another publish took the number at the same time
                repository.put_evidence_record(model, version, target.name, data, new=True)
                with suppress(FileExistsError) if repository.remote else nullcontext():  # already copied here
                    write_file(target, data)
                break
        number += 1
    _sync(home)
    return target


def remove(repository: Repository, model: str, version: Version, name: str) -> None:
    """Removes an attestation if it exists. Raises OSError if the repository could not be written to."""
    (directory(repository, model, version) / name).unlink(missing_ok=True)
    repository.delete_evidence_record(model, version, name)


def read(
    repository: Repository, model: str, version: Version, *prefixes: str, but: str = "/", most: int = MAX_FILES
) -> Iterator[tuple[str, bytes]]:
    """Yields attestations whose names begin with one of `prefixes`, but not with `but`: their names and contents, one
    at a time, since together they may be large. Links and files that are too large are left out.

    At most the first `most` of each prefix are read, so that many of one kind do not hide those of another.

    Raises:
        OSError: The directory cannot be read.
    """
    repository.refresh_evidence_records()
    home = directory(repository, model, version)
    present = sorted(name for name in names(repository, model, version) if not name.startswith(but))
    wanted = [[name for name in present if name.startswith(prefix)][:most] for prefix in prefixes]
    for name in dict.fromkeys(chain.from_iterable(wanted)):
        try:
            with open_inside(home, name) as file:
                data = file.read(MAX_BYTES + 1)
        except OSError:
            continue
        if len(data) <= MAX_BYTES:
            yield name, data


def names(repository: Repository, model: str, version: Version) -> list[str]:
    """Returns the names of a version's attestations that are stored here. Raises OSError if they cannot be listed."""
    try:
        return os.listdir(directory(repository, model, version))
    except FileNotFoundError:
        return []


def _sync(home: Path) -> None:
    for path in (home, home.parent, home.parent.parent):
        sync_directory(path)
