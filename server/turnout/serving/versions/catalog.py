"""The catalog of served versions, as an immutable snapshot that is replaced in one assignment.

A request reads `Catalog.snapshot` once and sees a consistent state, whatever is loaded, released or tagged in the
meantime.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from semver import Version

from turnout.errors import ModelNotFound, TurnoutError
from turnout.registry.manifest.manifest import Manifest
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.state.release_status import ModelReleaseState, ReleaseStatus

if TYPE_CHECKING:  # a handle runs requests, whose types name the entries of this module
    from turnout.serving.versions.handle import VersionHandle


@dataclass(frozen=True, slots=True)
class VersionEntry:
    """One version, as the server sees it now.

    Attributes:
        digest: Digest of the canonical manifest, `sha256:...`.
        reason: Human-readable reason for the state; "" if there is nothing to say.
        failure: Error that made the version Failed; None in every other state.
        handle: Handle that runs the version; present exactly while the state is Ready.
        providers: Execution providers that the session actually uses, in order; () if it is not loaded.
        max_batch_rows: Maximum number of rows in a batch; 0 if it is unbatched or not loaded.
        isolation: Whether it runs in child processes, and why; "" if it is not loaded.
        cuda_graphs: Batch sizes captured as CUDA graphs, or why none are; "" if it does not run on a GPU and CUDA
            graphs were not requested.
        tensorrt: Whether it runs on TensorRT, at which precision, and why; "" if TensorRT was not requested.
        on_demand: Whether it is loaded only when a request asks for it.
        awaited: Whether requests for it wait until it is loaded.
        load_seconds: Time in seconds that verification, loading and warm-up took; 0.0 if it is not loaded.
        version_text: The version as text, cached since every answer contains it.
    """

    manifest: Manifest
    digest: str
    release_status: ReleaseStatus
    state: LifecycleState
    reason: str = ""
    failure: TurnoutError | None = None
    handle: "VersionHandle | None" = field(default=None, compare=False)
    providers: tuple[str, ...] = ()
    max_batch_rows: int = 0
    batching: str = ""
    isolation: str = ""
    cuda_graphs: str = ""
    tensorrt: str = ""
    load_seconds: float = 0.0
    on_demand: bool = False
    awaited: bool = False
    version_text: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version_text", str(self.manifest.version))

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.manifest.model

    @property
    def version(self) -> Version:
        """Exact version."""
        return self.manifest.version

    @property
    def ready(self) -> bool:
        """Whether it can answer."""
        return self.state is LifecycleState.READY


@dataclass(frozen=True, slots=True, eq=False)
class ModelEntry:
    """One model, as the server sees it now. Snapshots share the object until something about the model changes.

    Attributes:
        versions: Entries by version, highest precedence first.
        layout: Identical in two entries of the model that differ only in the states of its versions.
    """

    name: str
    versions: Mapping[Version, VersionEntry]
    model_releases: ModelReleaseState = field(default_factory=ModelReleaseState)
    layout: object = field(default_factory=object)


@dataclass(frozen=True, slots=True)
class Damaged:
    """Versions of one model whose manifests have become unreadable, with the reasons, and the model's releases."""

    reasons: Mapping[Version, str]
    model_releases: ModelReleaseState


@dataclass(frozen=True, slots=True)
class CatalogSnapshot:
    """All models at one moment.

    Attributes:
        models: Entries by name, sorted.
        generation: Number of the snapshot, which increases by one each time; used as a key for cached resolutions.
        complete: Whether every version that should be loaded has been Ready or Failed.
        damaged: Damaged versions by model. Only the fact that they were published is known.
    """

    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    generation: int = 0
    complete: bool = False
    damaged: Mapping[str, Damaged] = field(default_factory=dict)

    def model(self, name: str) -> ModelEntry:
        """Returns a model by name. Raises ModelNotFound if there is no such model; the error suggests similar names."""
        entry = self.models.get(name)
        if entry is None:
            raise ModelNotFound.named(name, list(self.models))
        return entry

    def version(self, model: str, version: Version) -> VersionEntry | None:
        """Returns a version of a model; None if it does not exist."""
        known = self.models.get(model)
        return known.versions.get(version) if known is not None else None

    def statuses(self, model: str, *, ready: bool = False) -> dict[Version, ReleaseStatus]:
        """Returns the release statuses of a model's versions, or of those that are `ready`; empty if it has none."""
        versions = self.models[model].versions if model in self.models else {}
        return {version: entry.release_status for version, entry in versions.items() if entry.ready or not ready}


class Catalog:
    """Holds the current snapshot. Only the manager writes it, on the event loop."""

    def __init__(self) -> None:
        self.snapshot = CatalogSnapshot()
        self._changed = asyncio.Event()

    def swap(self, snapshot: CatalogSnapshot) -> None:
        """Makes `snapshot` the current one and wakes all waiters."""
        self.snapshot = snapshot
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for(self, condition: Callable[[CatalogSnapshot], bool]) -> CatalogSnapshot:
        """Waits until the current snapshot satisfies `condition`, and returns that snapshot."""
        while not condition(self.snapshot):
            await self._changed.wait()
        return self.snapshot

    def fold_histories(self, now: float) -> None:
        """Folds newly logged requests into the history of each version, which bounds it. Called once per tick.

        `now` is `time.monotonic()`.
        """
        for model in self.snapshot.models.values():
            for entry in model.versions.values():
                if entry.handle is not None:
                    entry.handle.history.fold(now)
