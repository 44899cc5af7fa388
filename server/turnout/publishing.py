"""Publishes versions from any source: a file, a stream to a running server, or an export.

The registry, which does the publishing, does not depend on running models, the log or settings. This module connects it
to all three.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from semver import Version

from turnout.config import Settings
from turnout.errors import InvalidModel
from turnout.registry.gates.comparison import ParentComparison
from turnout.registry.gates.gate import Candidate, Gate, Watch
from turnout.registry.gates.plan import read_plan
from turnout.registry.gates.standard import standard_gates
from turnout.registry.manifest.digest import Progress
from turnout.registry.onnx.model import ReadModel
from turnout.registry.publishing.publish import PublishRequest, PublishResult, publish
from turnout.registry.publishing.publish_options import PublishOptions
from turnout.registry.signing.signer import Signer
from turnout.registry.signing.trust import SignatureGate, Trust, keep
from turnout.registry.storage.files import explain, storage_errors
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.registry.transfer.copying import import_version
from turnout.releases.adoption import AdoptionStore
from turnout.serving.sandbox.processes import Processes
from turnout.serving.sandbox.sandbox import ProcessSandbox
from turnout.state.store import StateStore


class Publisher:
    """Publishes into one repository. Blocking."""

    def __init__(self, settings: Settings, repository: Repository, store: StateStore, processes: Processes) -> None:
        self._settings = settings
        self._processes = processes
        self._repository = repository
        self._store = store

    def publish(
        self, request: PublishRequest, how: PublishOptions, progress: Progress | None = None, watch: Watch | None = None
    ) -> PublishResult:
        """Publishes a version, as `turnout.registry.publishing.publish.publish` does.

        Raises:
            ConfigError: The plan of the gates, or a trusted key, cannot be read.
            TurnoutError: As for that function.
        """
        comparison = ParentComparison(self._sandbox(request.model))
        recorder = self._recorder(how)
        result = publish(
            self._repository,
            request,
            gates=self._gates(request.model, comparison, how.signer),
            skips=how.skips,
            comparison=comparison,
            read=self.reader(request.model),
            dry_run=how.dry_run,
            attest=lambda candidate: self._sign(candidate, how),
            yanked=lambda: self.yanked(request.model),
            recorded=recorder.record,
            progress=progress,
            watch=watch,
        )
        if not how.dry_run:
            self._settle(result, recorder, how)
        return result

    def describe(self, request: PublishRequest) -> PublishResult:
        """Returns the version that a publish would create now, with its number and digest.

        Runs no gates, and changes nothing.

        Raises:
            TurnoutError: As for `publish`, except for the errors of gates.
        """
        return publish(
            self._repository,
            request,
            gates=(),
            comparison=ParentComparison(self._sandbox(request.model)),
            read=self.reader(request.model),
            dry_run=True,
            yanked=lambda: self.yanked(request.model),
        )

    def reader(self, model: str) -> ReadModel:
        """Returns a function that reads the ONNX file of a version of `model`, in a separate process."""
        return self._sandbox(model).describe

    def yanked(self, model: str) -> list[Version]:
        """Returns the yanked versions of a model, whose numbers must not be used again."""
        return self._store.release_state().of(model).yanked

    def import_version(
        self, source: Repository, published: Published, how: PublishOptions, progress: Progress | None = None
    ) -> PublishResult:
        """Imports a version from another repository, as `turnout.registry.transfer.copying.import_version` does."""
        model = published.manifest.model
        recorder = self._recorder(how)
        result = import_version(
            self._repository,
            source,
            published,
            gates=self._gates(model, ParentComparison(self._sandbox(model)), None, source),
            yanked=lambda: self.yanked(model),
            recorded=recorder.record,
            read=self.reader(model),
            progress=progress,
        )
        self._settle(result, recorder, how)
        return result

    def _sandbox(self, model: str) -> ProcessSandbox:
        return ProcessSandbox(self._settings.for_model(model), self._processes)

    def _gates(
        self, model: str, comparison: ParentComparison, signer: Signer | None, source: Repository | None = None
    ) -> Sequence[Gate]:
        with storage_errors():
            self._repository.refresh_evidence_records()  # the plan may be stored with the versions
        integrity, *others = standard_gates(read_plan(self._repository.root, model), self._sandbox(model), comparison)
        trust = Trust.of(self._settings.for_model(model).signing)
        if trust.policy == "off":
            return (integrity, *others)
        # The signature is checked before any gate that runs the model, so that untrusted models are not run.
        return (integrity, SignatureGate(trust, source or self._repository, signer), *others)

    def _recorder(self, how: PublishOptions) -> AdoptionStore:
        return AdoptionStore(self._repository, self._store, how.actor, how.reason)

    def _sign(self, candidate: Candidate, how: PublishOptions) -> None:
        """Stores the signature before the version is published, so that the version never exists unsigned."""
        if how.signer is not None:
            manifest = candidate.manifest
            bundle = how.signer.sign(Published(manifest, candidate.digest))
            keep(self._repository, manifest.model, manifest.version, how.signer.key.id, bundle)

    def _settle(self, result: PublishResult, recorder: AdoptionStore, how: PublishOptions) -> None:
        recorder.settle(result.created, Published(result.manifest, result.digest))
        if how.signer is not None:
            manifest, key = result.manifest, how.signer.key.id
            self._store.record_signed(
                manifest.model, manifest.version, result.digest, key, actor=how.actor, reason=how.reason
            )


def without_zipmap(
    settings: Settings, processes: Processes, request: PublishRequest, directory: Path
) -> PublishRequest:
    """Returns a request for the same model without the ZipMap at its end, whose classes become labels.

    Args:
        settings: Settings of all models.
        processes: Starts the process in which both models are run.
        request: The original publish request.
        directory: An empty directory for the model without the ZipMap.

    Raises:
        InvalidModel: The model has no ZipMap, or it cannot be shown that its results are the same without it.
        TurnoutError: The model crashed its process, or exceeded the time limit.
    """
    target = directory / request.source.name
    sandbox = ProcessSandbox(settings.for_model(request.model), processes)
    try:
        labels = sandbox.drop_zipmap(request.source, target, request.golden)
    except OSError as error:
        raise InvalidModel(f"the ONNX file {explain(error)}") from error
    metadata = replace(request.metadata, labels={**labels, **request.metadata.labels})
    return replace(request, source=target, metadata=metadata)
