"""Triton's statistics extension: statistics of versions, combined over all workers."""

import time

from turnout.errors import NotLoaded
from turnout.oip.extensions.version_statistics import pooled_statistics, version_statistics
from turnout.serving.data_plane.inference import Router
from turnout.serving.versions.catalog import Catalog, VersionEntry
from turnout.workers.peers import EachWorker, Peers
from turnout_proto.oip.inference_pb2 import ModelStatisticsRequest, ModelStatisticsResponse


class Statistics:
    """Statistics of versions since they were loaded."""

    def __init__(self, router: Router, catalog: Catalog, peers: Peers | None) -> None:
        self._router = router
        self._catalog = catalog
        self._everywhere = EachWorker(peers, "statistics", ModelStatisticsRequest, self._own)

    async def of(self, model: str = "", selector: str = "") -> ModelStatisticsResponse:
        """Returns the statistics of one version, of all loaded versions of a model, or of all models.

        Raises:
            InvalidSelector: The selector cannot be parsed.
            ModelNotFound, VersionNotFound: The version does not exist.
            NotLoaded: The version is not loaded.
        """
        return pooled_statistics(await self._everywhere.ask(ModelStatisticsRequest(name=model, version=selector)))

    def _own(self, request: ModelStatisticsRequest) -> ModelStatisticsResponse:
        epoch = time.time() - time.monotonic()
        handles = [entry.handle for entry in self._entries(request.name, request.version) if entry.handle is not None]
        return ModelStatisticsResponse(model_stats=[version_statistics(one.recorder, epoch) for one in handles])

    def _entries(self, model: str, selector: str) -> list[VersionEntry]:
        snapshot = self._catalog.snapshot
        if not model:
            return [entry for one in snapshot.models.values() for entry in reversed(list(one.versions.values()))]
        if not selector:
            return list(reversed(list(snapshot.model(model).versions.values())))
        entry = self._router.describe(model, selector)
        if entry.handle is None:
            raise NotLoaded(f"{model} {entry.version} is not loaded, so it has no statistics")
        return [entry]
