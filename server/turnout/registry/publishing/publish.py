"""Publishes versions: stage, number, run the gates, attest, commit.

    stage     copy, hash and read the files, invisible to others
    number    choose the version if the publisher says `auto`; find its parent, the nearest lower version
    gates     run in order (`turnout.registry.gates`); a failure ends the publish
    attest    store the results of the gates, beside the place of the version
    commit    rename the version into place

Nothing is visible before the last step. An interrupted publish leaves only a staging directory, which the next sweep
removes.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from semver import Version

from turnout.cancellation import checkpoint
from turnout.errors import InvalidModel
from turnout.registry.compatibility.compat import VersionBump
from turnout.registry.compatibility.numbering import above, automatic
from turnout.registry.gates.bump import BumpGate
from turnout.registry.gates.comparison import ParentComparison
from turnout.registry.gates.gate import Candidate, Gate, GateRefused, GateReport, Skip, Watch, check_skips, run_gates
from turnout.registry.gates.integrity import IntegrityGate
from turnout.registry.gates.reports import attest_gates
from turnout.registry.gates.version_history import VersionHistory
from turnout.registry.manifest.digest import Progress, canonical_bytes, manifest_digest
from turnout.registry.manifest.manifest import MANIFEST_FILE, FileEntry, Manifest
from turnout.registry.manifest.names import check_model_name
from turnout.registry.manifest.signature import Signature
from turnout.registry.onnx.model import ReadModel, read_model
from turnout.registry.onnx.model_files import copy_model, opened
from turnout.registry.publishing.commit import Recorded, Yanked, check_number, commit, is_published, unrecorded
from turnout.registry.publishing.environment_record import attest_environment
from turnout.registry.publishing.manifest_builder import stated
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.registry.storage import attestations
from turnout.registry.storage.files import copy_file, open_outside, storage_errors, write_file
from turnout.registry.storage.golden import GOLDEN_DIRECTORY, GOLDEN_FILE, case_names, class_numbers, read_case
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import staged

DEFAULT_GATES: tuple[Gate, ...] = (IntegrityGate(), BumpGate())
"""Gates that need only files: the minimum for publishing without a sandbox."""

_SMALL_GRAPH = 64 << 20
"""Maximum size in bytes of an ONNX file that is read once more to find its external data. Larger ones contain their
weights themselves."""

_MAX_LABEL_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """A version to publish.

    Attributes:
        version: Exact version. If None, it is chosen: the smallest legal bump over the highest published version, or
            1.0.0 if there is none.
        source: The ONNX file, which may be a link. External data is read from its directory, as described in
            `turnout.registry.onnx.model_files`.
        golden: Files of golden cases; see `turnout.registry.storage.golden`.
    """

    model: str
    version: Version | None
    source: Path
    metadata: VersionMetadata = field(default_factory=VersionMetadata)
    golden: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishResult:
    """A version that now exists, or would exist if this was not a dry run.

    Attributes:
        created: False if the same version already existed, and after a dry run.
        report: Results of the gates; empty if the version already existed.
        parent: Version with which it was compared; None if there is no lower one.
        dry_run: Whether everything was done except the commit.
    """

    manifest: Manifest
    digest: str
    created: bool
    report: GateReport
    parent: Version | None = None
    dry_run: bool = False


def publish(
    repository: Repository,
    request: PublishRequest,
    *,
    gates: Sequence[Gate] = DEFAULT_GATES,
    skips: Sequence[Skip] = (),
    comparison: ParentComparison | None = None,
    read: ReadModel = read_model,
    dry_run: bool = False,
    yanked: Yanked = tuple,
    recorded: Recorded = unrecorded,
    attest: Callable[[Candidate], None] = lambda _: None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> PublishResult:
    """Publishes a version, or finds that the same version exists. Blocks. Memory is bounded except for the ONNX file.

    Args:
        repository: Repository to publish to.
        request: The version to publish.
        gates: Gates that it must pass, in order.
        skips: Gates to skip, as they are recorded.
        comparison: Finds what changed, if the version number is to be chosen; by default, it compares only files.
        read: Reads the ONNX file.
        dry_run: Whether to do everything except the commit.
        yanked: Returns the yanked versions of the model. Called before staging, and again at the commit.
        recorded: Called with the version once it exists; not called if it already existed.
        attest: Called with the candidate once the gates have passed. Writes the records beside the version. Also called
            if the same version already existed.
        progress: Called for each block that was copied.
        watch: Called with the name of each gate before it runs.

    Raises:
        InvalidRequest: The model's name is invalid, or a gate cannot be skipped.
        ChangeRefused: The repository is mounted read-only.
        InvalidModel: The files are not a valid version; GateRefused, a subclass, if a gate failed.
        AlreadyExistsError: The version number is taken.
        DigestMismatch: The same version exists, but its bytes have changed.
        Exhausted: There is not enough space.
        UnavailableError: The repository's lock could not be acquired.
        ConfigError: The repository cannot be written to.
    """
    check_model_name(request.model)
    repository.check_writable()
    check_skips(skips, gates)
    with storage_errors(), ExitStack() as stack:
        withdrawn = yanked()
        if request.version is not None:
            check_number(repository, request.model, request.version, withdrawn)
        directory = stack.enter_context(staged(repository.root))
        history = VersionHistory.of(repository, request.model, withdrawn)
        candidate = _candidate(directory, request, history, comparison or ParentComparison(), read, progress)
        parent = None if candidate.parent is None else candidate.parent.manifest.version
        if is_published(repository, candidate.manifest, candidate.digest):
            if not dry_run:
                attest(candidate)
            return PublishResult(candidate.manifest, candidate.digest, False, GateReport(), parent, dry_run)
        report = run_gates(gates, candidate, skips, watch)
        if report.failure:
            raise GateRefused(candidate, report)
        if dry_run:
            return PublishResult(candidate.manifest, candidate.digest, False, report, parent, dry_run)
        write_file(directory / MANIFEST_FILE, canonical_bytes(candidate.manifest))
        # The record is written before the version, so that every version has one. A record alone has no effect.
        attest(candidate)
        attestation = attest_gates(repository, candidate, report)
        try:
            checkpoint()  # the last one: after this, the version exists
            created = commit(repository, candidate, yanked, recorded)
        except BaseException:
            with suppress(OSError):  # evidence about a version that was not published has no effect
                attestations.remove(repository, request.model, candidate.manifest.version, attestation.name)
            raise
        if created:
            with suppress(OSError):  # the version exists, even if this record cannot be written
                attest_environment(repository, candidate.manifest, candidate.digest)
        return PublishResult(candidate.manifest, candidate.digest, created, report, parent)


def source_size(request: PublishRequest) -> int:
    """Estimates the number of bytes that a publish will copy, for displaying progress; 0 if unknown.

    Does not check whether the source can be published.
    """
    paths = [request.source, *request.golden]
    try:
        size = sum(path.stat().st_size for path in paths if path.is_file())
        if request.source.is_file() and request.source.stat().st_size <= _SMALL_GRAPH:
            external = read_model(request.source).external
            size += sum((request.source.parent / file.path).stat().st_size for file in external)
    except (OSError, InvalidModel):
        return 0
    return size


def _candidate(
    directory: Path,
    request: PublishRequest,
    history: VersionHistory,
    comparison: ParentComparison,
    read: ReadModel,
    progress: Progress | None,
) -> Candidate:
    """Stages the version to publish, and chooses its number if the publisher did not."""
    version = request.version or above(history.taken)
    files, facts = copy_model(request.source, directory, read, progress)
    request.metadata.check_against(facts.signature)
    files += _stage_golden(directory, request, facts.signature, progress)
    manifest, digest = stated(request.model, version, files, facts, request.metadata)
    candidate = Candidate(directory, manifest, digest, facts, history.parent(version), history.taken)
    if request.version is not None:
        return candidate
    if (highest := history.highest) is not None:
        same = _numbered(candidate, highest.manifest.version, history)
        if same.digest == highest.digest:  # the same content, as when a job runs twice
            return same
    parent = candidate.parent
    bump = VersionBump.PATCH if parent is None else comparison.difference(candidate, parent).bump
    chosen = automatic(bump, None if parent is None else parent.manifest.version, history.taken)
    return _numbered(candidate, chosen, history)


def _numbered(candidate: Candidate, version: Version, history: VersionHistory) -> Candidate:
    manifest = replace(candidate.manifest, version=version)
    return replace(candidate, manifest=manifest, digest=manifest_digest(manifest), parent=history.parent(version))


def _stage_golden(
    directory: Path, request: PublishRequest, signature: Signature, progress: Progress | None
) -> Iterator[FileEntry]:
    names = Counter(case.name.lower() for case in request.golden)  # one file on many file systems
    for case in request.golden:
        path = f"{GOLDEN_DIRECTORY}/{case.name}"
        if not GOLDEN_FILE.fullmatch(path):
            raise InvalidModel(f"golden case {case.name[:128]!r}: expected a plain name that ends in .npz")
        if names[case.name.lower()] > 1:
            raise InvalidModel(f"two golden cases are named {case.name!r}")
        with opened(open_outside(case), f"golden case {case.name!r}") as source:
            yield copy_file(source, directory, path, progress)
        check_golden(directory / path, signature, request.metadata.labels)


def check_golden(path: Path, signature: Signature, classes: Mapping[str, Sequence[str]]) -> None:
    """Checks the names and labels in a golden case. Inputs and outputs, which may be large, are read when they are run.
    `classes` are the names of the classes by output, as far as they are declared.

    Raises:
        InvalidModel: The case does not fit the version.
    """
    names = case_names(path)
    sides: Mapping[str, tuple[frozenset[str], set[str]]] = {
        "input": (names["inputs"], {spec.name for spec in signature.inputs}),
        "output": (names["outputs"] | names["labels"], {spec.name for spec in signature.outputs}),
    }
    for side, (named, known) in sides.items():
        if unknown := sorted(named - known):
            raise InvalidModel(f"golden case {path.name} has an {side} {unknown[0]!r} that the model does not have")
    if missing := sorted({spec.name for spec in signature.inputs if not spec.has_default} - names["inputs"]):
        raise InvalidModel(f"golden case {path.name} lacks the input {missing[0]!r}")
    for name, labels in read_case(path, max_bytes=_MAX_LABEL_BYTES, sides=("labels",)).labels.items():
        try:
            class_numbers(labels, classes.get(name))
        except ValueError as error:
            raise InvalidModel(f"golden case {path.name}: labels/{name} {error}") from error
