"""Methods of the service that describe the server and its models."""

from turnout import __version__
from turnout.errors import DigestMismatch, NotFoundError, NotLoaded, UnavailableError
from turnout.oip.description import SERVER, ModelDescription
from turnout_proto.oip import inference_pb2 as pb


class DescriptionMethods:
    """Describes the server and its models."""

    def __init__(self, description: ModelDescription) -> None:
        self._description = description

    async def ServerLive(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:  # noqa: N802 - gRPC's
        """Reports that the server is live."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:  # noqa: N802 - gRPC's
        """Returns whether the server is ready for traffic."""
        return pb.ServerReadyResponse(ready=self._description.ready())

    async def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:  # noqa: N802 - gRPC's
        """Returns whether a request for a version would be accepted now."""
        try:
            self._description.check_ready(request.name, request.version)
        except (NotFoundError, NotLoaded, UnavailableError, DigestMismatch):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:  # noqa: N802 - gRPC's
        """Describes the server."""
        extensions = self._description.extensions
        return pb.ServerMetadataResponse(name=SERVER, version=__version__, extensions=extensions)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:  # noqa: N802 - gRPC's
        """Describes the inputs and outputs of a version."""
        return self._description.metadata(request.name, request.version)

    async def ModelConfig(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:  # noqa: N802 - gRPC's
        """Describes a version as a Triton model configuration."""
        return pb.ModelConfigResponse(config=self._description.config(request.name, request.version))
