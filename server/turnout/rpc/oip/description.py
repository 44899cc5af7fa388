"""What the server and its models are, and whether they are ready."""

from collections.abc import Callable

from turnout import __version__
from turnout.errors import DigestMismatch, NotFound, NotLoaded, Unavailable
from turnout.rpc.oip.metadata import model_config, model_metadata
from turnout.serving.catalog import Catalog
from turnout.serving.inference import Router
from turnout_proto.oip import inference_pb2 as pb

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters")
"""By Triton's names. `statistics` must never stand here: perf_analyzer reads the versions in statistics as integers,
fails on some and takes `1.10.0` for 1."""


class DescriptionMethods:
    """Answers what clients ask before they send requests."""

    def __init__(self, router: Router, catalog: Catalog, accepting: Callable[[], bool]) -> None:
        """Prepares.

        Args:
            router: Tells which version a selector names.
            catalog: Tells what is served.
            accepting: Tells whether the server takes new requests; False while it drains.
        """
        self._router = router
        self._catalog = catalog
        self._accepting = accepting

    async def server_live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """Answers."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Tells whether the server is fit for traffic."""
        return pb.ServerReadyResponse(ready=self._catalog.snapshot.complete and self._accepting())

    async def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Tells whether a request for this version would be taken now."""
        try:
            self._router.route(request.name, request.version, "", baseline_only=True)  # counted in no split
        except (NotFound, NotLoaded, Unavailable, DigestMismatch):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._accepting())

    async def server_metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """Describes the server."""
        return pb.ServerMetadataResponse(name="turnout", version=__version__, extensions=EXTENSIONS)

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """Describes the inputs and outputs of a version."""
        return model_metadata(self._router.describe(request.name, request.version), self._catalog.snapshot)

    async def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """Describes a version in the form of Triton's model configuration."""
        return pb.ModelConfigResponse(config=model_config(self._router.describe(request.name, request.version)))
