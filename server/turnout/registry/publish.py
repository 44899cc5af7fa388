"""Publishing: stage, hash, run the gates, commit.

Nothing is visible before the last step, and a publish that is cut short leaves nothing but a staging directory, which
the next sweep removes.
"""

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from semver import Version

from turnout.errors import ConfigError, Exhausted, InvalidModel, Violation
from turnout.registry.commit import Yanked, check_number, commit, is_published
from turnout.registry.digest import Progress, bytes_digest, canonical_bytes
from turnout.registry.files import copy_file, explain, open_inside, open_outside, write_file
from turnout.registry.gates import Candidate, Gate, GateReport, run_gates
from turnout.registry.golden import GOLDEN_DIRECTORY, read_case
from turnout.registry.integrity import IntegrityGate
from turnout.registry.manifest import MANIFEST_FILE, MODEL_FILE, FileEntry, Manifest
from turnout.registry.metadata import VersionMetadata
from turnout.registry.names import check_model_name
from turnout.registry.onnx_model import ModelFacts, read_model
from turnout.registry.repository import MAX_MANIFEST_BYTES, Repository
from turnout.registry.signature import Signature
from turnout.registry.staging import staged
from turnout.registry.this_environment import attest_environment

DEFAULT_GATES: tuple[Gate, ...] = (IntegrityGate(),)

_GOLDEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}\.npz")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """What is to be published.

    Attributes:
        model: The model's name.
        version: Exact version.
        source: The ONNX file; may be a link. External data is taken from its directory, and may not be links.
        metadata: What the publisher says about it.
        golden: Files of golden cases, `turnout.registry.golden`.
    """

    model: str
    version: Version
    source: Path
    metadata: VersionMetadata = field(default_factory=VersionMetadata)
    golden: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishResult:
    """A version that exists now.

    Attributes:
        manifest: What its publisher states.
        digest: `sha256:` of the canonical manifest.
        created: False where the very same version existed already.
        report: What the gates found; empty where the version existed already.
    """

    manifest: Manifest
    digest: str
    created: bool
    report: GateReport


def publish(
    repository: Repository,
    request: PublishRequest,
    *,
    gates: Sequence[Gate] = DEFAULT_GATES,
    yanked: Yanked = tuple,
    progress: Progress | None = None,
) -> PublishResult:
    """Publishes a version, or finds that the very same version exists. Blocks; bounded in memory but for the ONNX file.

    Args:
        repository: Where to.
        request: What.
        gates: What it must pass, in order.
        yanked: Returns the versions of this model that were yanked; asked before staging and again at the commit.
        progress: Told of each block copied.

    Raises:
        InvalidRequest: The model's name is none.
        InvalidModel: It is not fit to be a version, or a gate failed; `violations` then names the gate.
        AlreadyExists: The version number is taken.
        DigestMismatch: The same version exists, and its bytes changed.
        Exhausted: There is no room for it.
        Unavailable: The repository's lock could not be had.
        ConfigError: The repository cannot be written to.
    """
    check_model_name(request.model)
    with storage_errors(), ExitStack() as stack:
        check_number(repository, request.model, request.version, yanked())
        directory = stack.enter_context(staged(repository.root))
        candidate = _stage(directory, request, progress)
        if is_published(repository, candidate.manifest, candidate.digest):
            return PublishResult(candidate.manifest, candidate.digest, created=False, report=GateReport())
        report = run_gates(gates, candidate)
        if failure := report.failure:
            raise InvalidModel(
                f"gate {failure.gate} failed: {failure.verdict.evidence}",
                violations=[Violation(failure.gate, failure.verdict.evidence)],
            )
        write_file(directory / MANIFEST_FILE, canonical_bytes(candidate.manifest))
        created = commit(repository, candidate, yanked)
        if created:
            with suppress(OSError):  # the version exists; that its record could not be written undoes nothing
                attest_environment(repository, candidate.manifest, candidate.digest)
        return PublishResult(candidate.manifest, candidate.digest, created, report)


def _stage(directory: Path, request: PublishRequest, progress: Progress | None) -> Candidate:
    """Copies what is to be published, and describes the copy: what the source becomes meanwhile does not matter."""
    with _source(open_outside(request.source), "the ONNX file") as source:
        files = [copy_file(source, directory, MODEL_FILE, progress)]
    facts = read_model(directory / MODEL_FILE)
    request.metadata.check_against(facts.signature)
    for external in facts.external:
        opening = open_inside(request.source.parent, external.path)
        with _source(opening, f"external data {external.path!r}") as source:
            files.append(copy_file(source, directory, external.path, progress))
    files += _stage_golden(directory, request.golden, facts.signature, progress)
    manifest = _manifest(request, files, facts)
    try:
        data = canonical_bytes(manifest)
    except ValueError as error:
        raise InvalidModel(f"the manifest has no canonical form: {error}") from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidModel(f"the manifest would have {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are taken")
    return Candidate(directory, manifest, bytes_digest(data), facts)


def _manifest(request: PublishRequest, files: Sequence[FileEntry], facts: ModelFacts) -> Manifest:
    try:
        return Manifest(
            model=request.model,
            version=request.version,
            files=tuple(sorted(files, key=lambda entry: entry.path)),
            signature=facts.signature,
            opset=facts.opset,
            ir_version=facts.ir_version,
            batching=request.metadata.batching,
            tolerances=request.metadata.tolerances,
            scores=request.metadata.scores,
            metadata=request.metadata.to_manifest(),
            provenance=request.metadata.provenance,
        )
    except ValueError as error:
        raise InvalidModel(f"the version cannot be described: {error}") from error


def _stage_golden(
    directory: Path, golden: Sequence[Path], signature: Signature, progress: Progress | None
) -> Iterator[FileEntry]:
    for case in golden:
        if not _GOLDEN_NAME.fullmatch(case.name):
            raise InvalidModel(f"golden case {case.name[:128]!r}: expected a plain name that ends in .npz")
        if [other.name for other in golden].count(case.name) > 1:
            raise InvalidModel(f"two golden cases are named {case.name!r}")
        path = f"{GOLDEN_DIRECTORY}/{case.name}"
        with _source(open_outside(case), f"golden case {case.name!r}") as source:
            yield copy_file(source, directory, path, progress)
        _check_golden(directory / path, signature)


def _check_golden(path: Path, signature: Signature) -> None:
    case = read_case(path)
    sides: Mapping[str, tuple[set[str], set[str]]] = {
        "input": (set(case.inputs), {spec.name for spec in signature.inputs}),
        "output": (set(case.outputs), {spec.name for spec in signature.outputs}),
    }
    for side, (named, known) in sides.items():
        if unknown := sorted(named - known):
            raise InvalidModel(f"golden case {path.name} has an {side} {unknown[0]!r} that the model has not")
    if missing := sorted({spec.name for spec in signature.inputs if not spec.has_default} - set(case.inputs)):
        raise InvalidModel(f"golden case {path.name} lacks the input {missing[0]!r}")


@contextmanager
def _source(opening: AbstractContextManager[BinaryIO], what: str) -> Iterator[BinaryIO]:
    """Opens a source and holds it open. Only opening it is its fault: what fails later may as well be the copy."""
    with ExitStack() as opened:
        try:
            file = opened.enter_context(opening)
        except OSError as error:
            raise InvalidModel(f"{what} {explain(error)}") from error
        yield file


@contextmanager
def storage_errors() -> Iterator[None]:
    """Puts what the disk says into words.

    Raises:
        Exhausted: It has no room.
        ConfigError: It cannot be used.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise Exhausted("the repository has no room left for this version") from error
        raise ConfigError(f"the repository cannot be used: {error.strerror or type(error).__name__}") from error
