"""What is served, as an immutable snapshot that one assignment swaps.

A request reads `Catalog.snapshot` once and sees one state of the world whole, whatever is loaded, released or tagged
beside it.
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
    """One version as the server sees it now.

    Attributes:
        manifest: What its publisher states.
        digest: `sha256:` of the canonical manifest.
        release_status: What it was declared fit for.
        state: Where it is in its life.
        reason: Why it is in that state, in words; "" if there is nothing to say.
        failure: The error that made it Failed; None in every other state.
        handle: Runs it; present exactly while the state is Ready.
        providers: Execution providers its session really runs on, in order; () if it is not loaded.
        max_batch_rows: Rows a batch may hold; 0 if it is served unbatched or not loaded.
        batching: Why it is batched as it is, in words.
        isolation: Whether it runs in processes of its own, and why, in words; "" if it is not loaded.
        cuda_graphs: For which sizes of batches its runs are captured, or why for none, in words; "" if it does not
            run on a GPU and nobody asked for them.
        tensorrt: Whether it runs on TensorRT, with which precision, and why, in words; "" where nobody asked for that.
        on_demand: Nothing but requests needs it in memory: the first one for it has it loaded, and waits for that.
        load_seconds: Time that verification, loading and warming took; 0.0 if it is not loaded.
        version_text: The version as text; made once, since every answer carries it.
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
    version_text: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version_text", str(self.manifest.version))

    @property
    def model(self) -> str:
        """The model's name."""
        return self.manifest.model

    @property
    def version(self) -> Version:
        """The exact version."""
        return self.manifest.version


@dataclass(frozen=True, slots=True, eq=False)
class ModelEntry:
    """One model as the server sees it now; it is the same object in each snapshot until something of it changes.

    Attributes:
        versions: By version, the highest precedence first.
        model_releases: Release statuses and tags.
        layout: The same object in two entries of the model that differ in the states of its versions alone.
    """

    name: str
    versions: Mapping[Version, VersionEntry]
    model_releases: ModelReleaseState = field(default_factory=ModelReleaseState)
    layout: object = field(default_factory=object)


@dataclass(frozen=True, slots=True)
class Damaged:
    """One model's versions whose manifests cannot be read any more.

    Attributes:
        reasons: What is wrong, by version.
        model_releases: Of the model.
    """

    reasons: Mapping[Version, str]
    model_releases: ModelReleaseState


@dataclass(frozen=True, slots=True)
class CatalogSnapshot:
    """All models as the server saw them at one moment.

    Attributes:
        models: By name, sorted.
        generation: Grows by one with each snapshot; caches of resolutions hang on it.
        complete: True once every version that should be loaded has been Ready or Failed.
        damaged: By model. Nothing is known of these versions but that they were published.
    """

    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    generation: int = 0
    complete: bool = False
    damaged: Mapping[str, Damaged] = field(default_factory=dict)

    def model(self, name: str) -> ModelEntry:
        """Returns the model of that name.

        Raises:
            ModelNotFound: There is no such model; the error names the nearest.
        """
        entry = self.models.get(name)
        if entry is None:
            raise ModelNotFound.named(name, list(self.models))
        return entry


class Catalog:
    """Holds the current snapshot. Written by the manager alone, on the event loop; read by everyone."""

    def __init__(self) -> None:
        self.snapshot = CatalogSnapshot()
        self._changed = asyncio.Event()

    def swap(self, snapshot: CatalogSnapshot) -> None:
        """Makes `snapshot` the current one and wakes who waits for a change."""
        self.snapshot = snapshot
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for(self, condition: Callable[[CatalogSnapshot], bool]) -> CatalogSnapshot:
        """Waits until `condition` holds of the current snapshot, and returns that snapshot."""
        while not condition(self.snapshot):
            await self._changed.wait()
        return self.snapshot
