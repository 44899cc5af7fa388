"""`turnout.v1.CatalogService`: describes the served models and versions, from one snapshot of the catalog."""

from typing import cast

from turnout.errors import TurnoutError
from turnout.registry.manifest.signature import DataType, Dimension, TensorSpec
from turnout.serving.data_plane.inference import Router
from turnout.serving.versions.catalog import Catalog, ModelEntry, VersionEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.state.release_status import ReleaseStatus
from turnout_proto.v1 import catalog_pb2 as pb
from turnout_proto.v1.prediction_pb2 import DataType as DataTypeValue

# The protocol's enumerations have the same names, behind a prefix.
STATES = {one: cast(pb.VersionState, pb.VersionState.Value(f"VERSION_STATE_{one.name}")) for one in LifecycleState}
RELEASE_STATUSES = {one: cast(pb.Standing, pb.Standing.Value(f"STANDING_{one.name}")) for one in ReleaseStatus}
_DATA_TYPES = {one: cast(DataTypeValue, DataTypeValue.Value(f"DATA_TYPE_{one.name}")) for one in DataType}


class CatalogServicer:
    """Implements `CatalogService`."""

    def __init__(self, catalog: Catalog, router: Router) -> None:
        self._catalog = catalog
        self._router = router

    async def ListModels(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        """Lists the models."""
        models = self._catalog.snapshot.models.values()
        return pb.ListModelsResponse(models=[self._model(entry) for entry in models])

    async def GetModel(self, request: pb.GetModelRequest) -> pb.GetModelResponse:
        """Describes one model."""
        return pb.GetModelResponse(model=self._model(self._catalog.snapshot.model(request.model)))

    async def GetVersion(self, request: pb.GetVersionRequest) -> pb.GetVersionResponse:
        """Describes the version that a selector resolves to."""
        entry = self._router.describe(request.model, request.version)
        return pb.GetVersionResponse(version=version_message(entry, self._catalog.snapshot.model(request.model)))

    def _model(self, entry: ModelEntry) -> pb.Model:
        try:
            default = self._router.describe(entry.name, "").version_text
        except TurnoutError:  # nothing is released yet
            default = ""
        versions = [version_message(version, entry) for version in entry.versions.values()]
        return pb.Model(name=entry.name, versions=versions, default_version=default)


def version_message(entry: VersionEntry, model: ModelEntry) -> pb.ModelVersion:
    """Returns `entry` as a message, with its tags taken from `model`."""
    tags = sorted(tag for tag, version in model.model_releases.tags.items() if version == entry.version)
    return pb.ModelVersion(
        version=entry.version_text,
        digest=entry.digest,
        standing=RELEASE_STATUSES[entry.release_status],
        state=STATES[entry.state],
        reason=entry.reason,
        tags=tags,
        inputs=[_spec(spec) for spec in entry.manifest.signature.inputs],
        outputs=[_spec(spec) for spec in entry.manifest.signature.outputs],
        size_bytes=entry.manifest.size,
        max_batch_rows=entry.max_batch_rows,
        batching=entry.batching,
        providers=entry.providers,
        load_seconds=entry.load_seconds,
        isolation=entry.isolation,
        cuda_graphs=entry.cuda_graphs,
        tensorrt=entry.tensorrt,
    )


def _spec(spec: TensorSpec) -> pb.TensorSpec:
    return pb.TensorSpec(
        name=spec.name,
        data_type=_DATA_TYPES[spec.dtype],
        shape=[_dimension(d) for d in spec.shape],
        has_default=spec.has_default,
    )


def _dimension(dimension: Dimension) -> pb.Dimension:
    if isinstance(dimension, int):
        return pb.Dimension(size=dimension)
    return pb.Dimension(symbol=dimension) if dimension is not None else pb.Dimension()
