"""Copies versions from one repository to another: the same files, the same manifest, the same digest.

Attestations are copied too. Signatures prove themselves and keep their names. All other attestations are statements of
the other repository, and are stored as `imported-<name>`, so that they are not mistaken for this repository's.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from semver import Version

from turnout.errors import DigestMismatch, InvalidModel, InvalidRequest
from turnout.registry.gates.comparison import golden_paths
from turnout.registry.gates.gate import Candidate, Gate, GateRefused, GateReport, run_gates
from turnout.registry.gates.reports import attest_gates
from turnout.registry.gates.version_history import VersionHistory
from turnout.registry.manifest.digest import Progress, canonical_bytes
from turnout.registry.manifest.manifest import MANIFEST_FILE, MODEL_FILE
from turnout.registry.onnx.model import ModelFacts, ReadModel, read_model
from turnout.registry.publishing.commit import Recorded, Yanked, check_number, commit, is_published, unrecorded
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.registry.publishing.publish import DEFAULT_GATES, PublishResult, check_golden
from turnout.registry.signing.trust import PREFIX, SUFFIX, bundles
from turnout.registry.storage import attestations
from turnout.registry.storage.files import copy_file, open_inside, storage_errors, write_file
from turnout.registry.storage.golden import GOLDEN_FILE, is_golden
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import staged

_NAME = re.compile(r"[a-z0-9][A-Za-z0-9_-]{0,120}\.json")
_BUNDLE = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{1,100}}{re.escape(SUFFIX)}")


def only_version(repository: Repository) -> Published:
    """Returns the only version in a repository.

    Raises:
        InvalidRequest: The repository contains no version, or several.
        DigestMismatch: It contains something that cannot be read as a version.
    """
    try:
        listing = repository.scan()
    except OSError as error:
        raise InvalidRequest(f"the export cannot be read: {error.strerror}") from error
    if listing.problems:
        raise DigestMismatch(f"the export contains something that is not a version: {listing.problems[0].reason}")
    if len(listing.published) != 1:
        raise InvalidRequest(f"expected an export of one version, found {len(listing.published)}")
    return listing.published[0]


def copy_version(
    source: Repository, model: str, version: Version, target: Path, progress: Progress | None
) -> Published:
    """Copies a version and its attestations into a new repository at `target`.

    Raises:
        ModelNotFound, VersionNotFound: There is no such version.
        DigestMismatch: Its files are not what was published.
        OSError: The copy cannot be written.
    """
    published = source.find(model, version)
    into = Repository(target)
    home = into.directory(model, version)
    home.mkdir(parents=True)
    _copy_files(source, published, home, progress)
    write_file(home / MANIFEST_FILE, canonical_bytes(published.manifest))
    for name, data in _evidence_records(source, published).items():
        attestations.write(into, model, version, name, data)
    return published


def import_version(
    repository: Repository,
    source: Repository,
    published: Published,
    *,
    gates: Sequence[Gate] = DEFAULT_GATES,
    yanked: Yanked = tuple,
    recorded: Recorded = unrecorded,
    read: ReadModel = read_model,
    progress: Progress | None = None,
) -> PublishResult:
    """Imports the version `published` from `source`, with the same digest.

    The other arguments are as for `turnout.registry.publishing.publish.publish`.

    Raises:
        InvalidModel: Its manifest does not match its ONNX file, or a gate failed.
        AlreadyExistsError: The version number is taken.
        DigestMismatch: Its files do not match its manifest.
        ChangeRefused, Exhausted, UnavailableError, ConfigError: As for that function.
    """
    manifest, digest = published.manifest, published.digest
    repository.check_writable()
    source.verify(manifest.model, manifest.version, expected=digest)
    with storage_errors():
        check_number(repository, manifest.model, manifest.version, yanked())
        if is_published(repository, manifest, digest):
            return PublishResult(manifest, digest, created=False, report=GateReport())
        with staged(repository.root) as directory:
            _copy_files(source, published, directory, progress)
            facts = read(directory / MODEL_FILE)
            _check_manifest(published, facts)
            for path in golden_paths(manifest):
                check_golden(directory / path, manifest.signature, manifest.labels)
            history = VersionHistory.of(repository, manifest.model, yanked())
            candidate = Candidate(
                directory, manifest, digest, facts, parent=history.parent(manifest.version), taken=history.taken
            )
            report = run_gates(gates, candidate)
            if report.failure:
                raise GateRefused(candidate, report)
            write_file(directory / MANIFEST_FILE, canonical_bytes(manifest))
            # Before the version exists here, since a signature may be required at once.
            for name, data in _evidence_records(source, published).items():
                known = name.startswith((PREFIX, attestations.IMPORTED))
                with suppress(OSError):  # attestations are optional
                    kept = name if known else f"{attestations.IMPORTED}{name}"
                    attestations.write(repository, manifest.model, manifest.version, kept, data)
            created = commit(repository, candidate, yanked, recorded)
            if created:
                attest_gates(repository, candidate, report)
            return PublishResult(manifest, digest, created, report)


def _copy_files(source: Repository, published: Published, target: Path, progress: Progress | None) -> None:
    manifest = published.manifest
    directory = source.fetch(manifest.model, manifest.version)
    for entry in manifest.files:
        try:
            with open_inside(directory, entry.path) as file:
                copied = copy_file(file, target, entry.path, progress)
        except FileNotFoundError as error:
            raise DigestMismatch(f"{entry.path} is missing") from error
        if copied != entry:
            raise DigestMismatch(f"{manifest.model} {manifest.version}: {entry.path} is not what was published")


def _check_manifest(published: Published, facts: ModelFacts) -> None:
    """Checks that a manifest from another repository is one that a publish of its ONNX file would make."""
    manifest = published.manifest
    sides = {
        "signature": (manifest.signature, facts.signature),
        "opset": (dict(manifest.opset), dict(facts.opset)),
        "ir_version": (manifest.ir_version, facts.ir_version),
    }
    for name, (stated, found) in sides.items():
        if stated != found:
            raise InvalidModel(f"the manifest's {name} is not that of {MODEL_FILE}")
    VersionMetadata(
        batching=manifest.batching, tolerances=manifest.tolerances, scores=manifest.scores, labels=manifest.labels
    ).check_against(manifest.signature)
    belonging = {MODEL_FILE, *(file.path for file in facts.external)}
    for entry in manifest.files:
        if is_golden(entry.path) and not GOLDEN_FILE.fullmatch(entry.path):
            raise InvalidModel(f"golden case {entry.path[:128]!r}: expected a plain name that ends in .npz")
        if entry.path not in belonging and not is_golden(entry.path):
            raise InvalidModel(f"{entry.path} does not belong to the model: nothing in {MODEL_FILE} refers to it")


def _evidence_records(source: Repository, published: Published) -> Mapping[str, bytes]:
    """Returns the attestations of a version by file name, except those about another digest and those not in JSON."""
    manifest = published.manifest
    try:
        found = dict(attestations.read(source, manifest.model, manifest.version, "", but=PREFIX))
    except OSError:
        return {}
    about = {name: data for name, data in bundles(source, published).items() if _BUNDLE.fullmatch(name)}
    for name, data in found.items():
        with suppress(ValueError, RecursionError):
            body = json.loads(data)
            if _NAME.fullmatch(name) and isinstance(body, dict) and body.get("digest") == published.digest:
                about[name] = data
    return about
