"""Creates catalog entries that are ready without a model, for tests of code that only uses the catalog."""

import asyncio
from collections.abc import Mapping

from semver import Version

from turnout.config import Settings
from turnout.errors import TurnoutError
from turnout.registry.manifest.manifest import FileEntry, Manifest
from turnout.registry.manifest.signature import Signature
from turnout.serving.batching.active_plan import PlanInForce
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.batching.warmup import WarmUp
from turnout.serving.loading.loaded_version import LoadedVersion
from turnout.serving.versions.catalog import Catalog, CatalogSnapshot, ModelEntry, VersionEntry
from turnout.serving.versions.handle import VersionHandle
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.state.release_status import ModelReleaseState, ReleaseStatus
from turnout.telemetry.metrics.versions import Metrics


def digest_of(version: str) -> str:
    """Returns the digest that `entry` gives a version."""
    return "sha256:" + version.encode().hex().rjust(64, "0")


def entry(
    version: str,
    state: LifecycleState = LifecycleState.READY,
    release_status: ReleaseStatus = ReleaseStatus.RELEASED,
    reason: str = "",
    failure: TurnoutError | None = None,
    *,
    signature: Signature | None = None,
) -> VersionEntry:
    """Returns a version of the model `magika`. If it is Ready, it has a handle that cannot run anything."""
    weights = FileEntry("model.onnx", 1, "sha256:" + "0" * 64)
    manifest = Manifest("magika", Version.parse(version), (weights,), signature or Signature((), ()), {"": 18}, 9)
    handle = asyncio.run(_idle(manifest)) if state is LifecycleState.READY else None
    return VersionEntry(manifest, digest_of(version), release_status, state, reason, failure, handle)


def put(catalog: Catalog, *entries: VersionEntry, tags: Mapping[str, str] | None = None) -> None:
    """Swaps in a snapshot in which the model `magika` has these versions."""
    model_releases = ModelReleaseState(
        {e.version: e.release_status for e in entries}, {tag: Version.parse(v) for tag, v in (tags or {}).items()}
    )
    ordered = sorted(entries, key=lambda e: e.version, reverse=True)
    model = ModelEntry("magika", {e.version: e for e in ordered}, model_releases)
    catalog.swap(CatalogSnapshot({"magika": model}, catalog.snapshot.generation + 1))


async def _idle(manifest: Manifest) -> VersionHandle:
    loaded = LoadedVersion((), (), lambda _inputs, _outputs: [], PlanInForce(BatchPlan(0)), WarmUp(), 0, {}, 0.0)
    recorder = Metrics().version(manifest.model, str(manifest.version), "")
    return VersionHandle(manifest, loaded, Settings().for_model(manifest.model), recorder)
